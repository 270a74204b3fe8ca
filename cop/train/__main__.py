"""`python -m cop.train STAGE`: the command line of the stages, which stands above this room (`cop.scale.stages`)."""

import sys

from cop.scale.stages import main

if __name__ == "__main__":
    sys.exit(main())
