import os
import subprocess
import sys

SAYS = """
import os, sys
from pathlib import Path
from jetmem.adapters.priority import give_way
give_way(int(sys.argv[1]))
group = Path("/proc/self/autogroup")  # lacks, or is empty, where the kernel has no autogroups
print(os.nice(0), *(group.read_text().split()[-1:] if group.exists() else []))
"""


def said(nice, **how):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", SAYS, str(nice)], capture_output=True, text=True, env=env, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_process_in_a_session_of_its_own_makes_the_session_give_way():
    before = os.nice(0)
    own, *group = said(10, start_new_session=True)
    assert int(own) == min(before + 10, 19)
    assert group in ([], ["10"])


def test_a_process_of_a_terminal_leaves_its_neighbours_alone():
    shared = said(0)[1:]
    assert said(10)[1:] == shared
