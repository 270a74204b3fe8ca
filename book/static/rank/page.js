"use strict";
/* The page that ranks a photograph: reads it, asks orders.js for orders, draws what they have seen. */

(() => {
  const $ = (id) => document.getElementById(`rank-${id}`);
  const all = document.getElementById("rank"), said = $("said"), drop = all.querySelector(".rank-drop");
  const parts = ["controls", "pictures", "options"].map((part) => all.querySelector(`.rank-${part}`)), pictures = parts[1];
  const UNSEEN = "rgb(70, 70, 78)", FRAMES = ["#ffd54a", "#35b6ff"]; // of patches that only the left, only the right order has seen
  const RANKS = ["#f0f921", "#fca636", "#e16462", "#b12a90", "#6a00a8", "#0d0887"].map((c) => // matplotlib's plasma, reversed
    [1, 3, 5].map((at) => parseInt(c.slice(at, at + 2), 16)));
  const LARGEST = 1024, LONGEST = 16; // pixels of a drawing's short side; long side in short ones, as in cop.data.inputs
  let photo = null, name = "", views = {}, playing = null, latest = 0;

  const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
  const pause = () => new Promise((done) => setTimeout(done));
  const even = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // a half to the even number, as Python rounds

  if (!globalThis.COP_WEIGHTS) {
    said.textContent = "The networks are missing beside this page (_static/rank/weights.js): build the book with python -m cop book.";
    return;
  }
  const model = cop.load(COP_WEIGHTS);
  for (const [key, { title }] of Object.entries(cop.ORDERS)) {
    $("first").add(new Option(title, key));
    $("second").add(new Option(title, key));
  }
  $("second").add(new Option("nothing", ""), 0);
  $("first").value = "measured", $("second").value = "coverage";

  /* The photograph, or its centre square, for the eye and for the networks: {shown, model, patches, tokens, rows, columns, N}. */
  const viewOf = (whole) => {
    if (views[whole]) return views[whole];
    const { width, height } = photo, short = Math.min(width, height), p = model.patch_size, least = model.grid * p;
    const sides = [width, height].map((side) => Math.max(least, p * even(Math.min((side * least) / short, LONGEST * least) / p)));
    const cut = whole ? [0, 0, width, height] : [(width - short) / 2, (height - short) / 2, short, short].map(Math.floor);
    const [columns, rows] = whole ? sides.map((side) => side / p) : [model.grid, model.grid];
    const drawn = (w, h) => {
      const canvas = canvasOf(w, h), context = canvas.getContext("2d", { willReadFrequently: true });
      Object.assign(context, { fillStyle: "white", imageSmoothingQuality: "high" }).fillRect(0, 0, w, h);
      context.drawImage(photo, ...cut, 0, 0, w, h);
      return canvas;
    };
    const times = Math.max(0, Math.min(3, Math.floor(Math.log2(short / least)))), [w, h] = [columns, rows].map((n) => (n * p) << times);
    const rgba = drawn(w, h).getContext("2d").getImageData(0, 0, w, h).data;
    const x = cop.patchify(cop.pixels(rgba, w, h, times), p);
    const scale = Math.min(Math.max(short, least * 4), LARGEST, (4 * LARGEST * short) / Math.max(...cut.slice(2))) / short;
    const shown = drawn(...cut.slice(2).map((side) => Math.max(1, Math.round(side * scale))));
    return (views[whole] = { ...x, model, tokens: cop.encode(model, x.patches), shown, orders: {} });
  };

  /* The order of that name; null if another photograph or order was asked for meanwhile. */
  const orderOf = async (view, key, ask) => {
    if (!view.orders[key]) {
      let found = cop.ORDERS[key].of(view);
      if (!Array.isArray(found)) {
        let step = found.next();
        for (; !step.done; step = found.next()) {
          said.textContent = `${cop.ORDERS[key].title}: ${step.value.length} of ${view.N} patches chosen`;
          await pause();
          if (ask !== latest) return null;
        }
        found = step.value;
      }
      view.orders[key] = found;
    }
    return view.orders[key];
  };

  const draw = (canvas, view, order, count, other, colour, tint) => {
    const { shown, rows, columns, N } = view, context = canvas.getContext("2d");
    Object.assign(canvas, { width: shown.width, height: shown.height });
    context.drawImage(shown, 0, 0);
    const edge = (i, n, side) => Math.round((i * side) / n), line = Math.max(2, shown.width / columns / 14);
    order.forEach((n, rank) => {
      const [y, x] = [Math.floor(n / columns), n % columns];
      const left = edge(x, columns, shown.width), top = edge(y, rows, shown.height);
      const box = [left, top, edge(x + 1, columns, shown.width) - left, edge(y + 1, rows, shown.height) - top];
      if (tint) {
        const at = (rank / Math.max(1, N - 1)) * (RANKS.length - 1), i = Math.min(RANKS.length - 2, Math.floor(at));
        const rgb = RANKS[i].map((v, c) => Math.round(v + (at - i) * (RANKS[i + 1][c] - v)));
        context.fillStyle = `rgba(${rgb.join()}, ${rank < count ? 0.45 : 0.8})`;
        context.fillRect(...box);
      } else if (rank >= count) {
        context.fillStyle = UNSEEN;
        context.fillRect(...box);
      }
      if (rank < count && (tint || (other && !other.has(n)))) {
        Object.assign(context, { strokeStyle: other && !other.has(n) ? colour : "white", lineWidth: line });
        context.strokeRect(left + line / 2, top + line / 2, box[2] - line, box[3] - line);
      }
    });
  };

  const update = async () => {
    if (!photo) return;
    const ask = ++latest, whole = $("whole").checked;
    for (const option of [...$("first").options, ...$("second").options]) {
      option.disabled = whole && Boolean(cop.ORDERS[option.value]?.square);
    }
    if ($("first").selectedOptions[0].disabled) $("first").value = "measured";
    if ($("second").selectedOptions[0].disabled) $("second").value = "";
    const view = viewOf(whole), keys = [$("first").value, $("second").value].filter(Boolean), orders = [];
    for (const key of keys) {
      orders.push(await orderOf(view, key, ask));
      if (ask !== latest) return;
    }
    const percent = Number($("slider").value), count = Math.max(1, Math.round((percent / 100) * view.N));
    const seen = orders.map((order) => new Set(order.slice(0, count)));
    $("percent").textContent = `${percent} %, ${count} of ${view.N} patches`;
    for (const part of parts) part.hidden = false;
    pictures.classList.toggle("rank-single", orders.length === 1);
    ["left", "right"].forEach((side, i) => {
      const canvas = $(side), figure = canvas.parentNode, { title } = cop.ORDERS[keys[i]] ?? {};
      figure.hidden = !title;
      if (!title) return;
      draw(canvas, view, orders[i], count, seen[1 - i], FRAMES[i], $("tint").checked);
      const alone = seen[1 - i] ? count - [...seen[i]].filter((n) => seen[1 - i].has(n)).length : 0;
      const caption = figure.querySelector("figcaption"), key = Object.assign(document.createElement("span"), { className: "rank-key" });
      key.style.borderColor = FRAMES[i];
      caption.replaceChildren(title, ...(alone ? [": ", key, `${alone} seen by this order only`] : []));
      canvas.setAttribute("aria-label", `The first ${count} of ${view.N} patches of the photograph by ${title}`);
    });
    const same = seen[1] ? [...seen[0]].filter((n) => seen[1].has(n)).length : 0;
    said.textContent = seen[1] ? `Both orders share ${same} of their first ${count} patches.` : "";
    all.dataset.orders = JSON.stringify(orders); // for tests
  };

  const open = async (file) => {
    if (!file) return;
    const ask = ++latest;
    said.textContent = "Reading the photograph …";
    await pause(); // so that the line is drawn before the work begins
    try {
      const found = await createImageBitmap(file, { imageOrientation: "from-image" });
      if (ask !== latest) return found.close();
      photo?.close();
      photo = found;
    } catch {
      said.textContent = `${file.name || "This"} is no image that this browser can read; choose a JPEG, PNG or WebP file.`;
      return;
    }
    [name, views] = [file.name || "photograph", {}];
    await update();
    all.classList.add("rank-open");
    pictures.scrollIntoView({ block: "nearest" });
  };

  const stop = () => {
    clearInterval(playing);
    [playing, $("play").textContent] = [null, "Play"];
  };
  $("play").onclick = () => {
    if (playing) return stop();
    if (Number($("slider").value) === 100) $("slider").value = 1;
    $("play").textContent = "Pause";
    playing = setInterval(() => {
      $("slider").value = Number($("slider").value) + 1;
      if (Number($("slider").value) === 100) stop();
      update();
    }, 80);
  };

  $("save").onclick = () => {
    const sides = [$("left"), $("right")].filter((canvas) => !canvas.parentNode.hidden), gap = Math.round($("left").width / 24);
    const picture = canvasOf(sides.length * ($("left").width + gap) - gap, $("left").height), context = picture.getContext("2d");
    Object.assign(context, { fillStyle: "white" }).fillRect(0, 0, picture.width, picture.height);
    sides.forEach((canvas, i) => context.drawImage(canvas, i * (canvas.width + gap), 0));
    const keys = [$("first").value, $("second").value].filter(Boolean).join("-");
    picture.toBlob((blob) => {
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob),
        download: `${name.replace(/\.[^.]*$/, "")}.${keys}.${$("slider").value}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  };

  for (const id of ["first", "second", "whole", "tint"]) $(id).onchange = update;
  $("slider").oninput = () => {
    if (playing) stop();
    update();
  };
  $("file").onchange = () => open($("file").files[0]);
  document.addEventListener("paste", (event) => open([...event.clipboardData.files][0]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("rank-over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("rank-over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("rank-over");
    open(event.dataTransfer.files[0]);
  });
})();
