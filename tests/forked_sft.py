"""A process that has imported everything and forks a child for each requested run of recipes/sft.py.

    python tests/forked_sft.py MODEL

A line of JSON on standard input, {"args": [...], "log": PATH}, starts a run whose output goes to that file, and its
process id is written to standard output; then, when it has ended, its exit status (-9: killed). A start imports
nothing, so that dozens of processes can be killed in a minute or two.
"""

import json
import os
import sys

from conftest import recipe_module
from dialogsum_sft.cli import run

from transformers import AutoModelForCausalLM

AutoModelForCausalLM.from_pretrained(sys.argv[1])  # fills transformers' caches, once
recipe = recipe_module("sft")

for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        sys.argv = ["sft.py", *request["args"]]
        status = 1
        try:
            run(recipe.main)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
