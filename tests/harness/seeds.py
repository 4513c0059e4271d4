"""What chance a run of tests begins with: `TEST_SEED=n pytest …` takes what one that failed has printed."""

import os
import random

#: Not a setting of jetmem, which refuses those that it does not know.
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
