"""`cop.look`: nothing is touched before it is asked for, and what is asked for is the order `active`."""

import pytest
import torch

import cop
from cop.lessons import ordering
from cop.paper.patches import patchify
from cop.profiles import get_profile

pytestmark = pytest.mark.usefixtures("own_cache")
profile = get_profile("demo")
P, N = profile.tokens.patch_size, profile.num_tokens


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return cop.load_data(profile, "test").batch(slice(3, 4))[0]  # (1, 1, H, H)


def patches_of(image: torch.Tensor) -> torch.Tensor:
    return patchify(image, P)[0].view(N, 1, P, P)


@pytest.mark.parametrize("per_step, name", [(1, "active"), (2, "active"), (3, "active"), (2, "active cached")])
def test_a_camera_is_asked_step_by_step_for_the_order(image, per_step, name):
    patches, asked = patches_of(image), []

    def camera(which):
        asked.append(which.tolist())
        return patches[which]

    own = get_profile(f"demo looking.per_step={per_step}")
    ranking = cop.rank(image, own, order=name)[0]
    seen = cop.look(camera, 11, own, order=name)
    assert [len(step) for step in asked] == [per_step] * (11 // per_step) + [11 % per_step] * (11 % per_step > 0)
    assert sum(asked, []) == seen.order.tolist() == ranking[:11].tolist(), "nothing is asked for twice or beside the order"
    assert torch.equal(seen.patches, patches[seen.order])
    assert torch.equal(cop.look(image, 11, "demo", per_step, order=name).order, seen.order), "an image, and the step as an argument"
    assert len(cop.look(camera, N, own, order=name).order.unique()) == N


def test_what_was_not_asked_for_changes_nothing(image):
    seen = cop.look(image, 12, "demo").order
    other = torch.rand(N, 1, P, P)
    other[seen] = patches_of(image)[seen]
    assert torch.equal(cop.look(lambda which: other[which], 12, "demo").order, seen)


def test_bad_input_is_one_clear_error(image):
    def short(which):
        return patches_of(image)[which][1:]

    for call, said in ((lambda: cop.look(image, 0, "demo"), "patches is 0; expected a whole number from 1 to 64"),
                       (lambda: cop.look(image, N + 1, "demo"), "patches is 65; expected"),
                       (lambda: cop.look(image, 4, "demo", per_step=0), "per_step is 0; expected"),
                       (lambda: cop.look(image, 4, "demo", order="collapse"), "order 'collapse' cannot look: expected active"),
                       (lambda: cop.look(short, 4, "demo"), r"returned torch.float32 \(1, 1, .*expected a float tensor \(2, 1"),
                       (lambda: cop.look(lambda which: None, 4, "demo"), "returned a NoneType; expected"),
                       (lambda: cop.look(lambda which: patches_of(image)[which] / 0, 4, "demo"), "NaN or infinite values; expected"),
                       (lambda: cop.look(image.expand(2, -1, -1, -1), 4, "demo"), "2 images; expected one"),
                       (lambda: cop.look(image, 4, "paper"), "tokens 'kl16', which need the whole image")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call()


def test_the_mean_of_an_order_is_one_for_all_and_of_the_training_images():
    want = ordering.mean_order(ordering.ranking_of("smoke", "train", "coverage"))
    assert torch.equal(ordering.ranking_of("smoke", "test", "mean of coverage"), want.expand(64, -1))
    assert torch.equal(ordering.shared_order(get_profile("smoke"), "mean of coverage", 0, "cpu"), want)
