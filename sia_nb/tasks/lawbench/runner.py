"""Runs one solution's Python inside the sandbox: reads input.json, writes output.json in its working folder.

A script by itself, standard library only; the kit's package is not imported. Input: code, train_texts,
train_labels, texts. Output: {"pred": ...} as far as JSON can hold it, or {"error": traceback's last lines}.
"""

import json
import os
import sys
import traceback


def plain(value):
    """A prediction as JSON can hold it: lists of Python numbers, whatever array type they came in."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return [v.item() if hasattr(v, "item") else v for v in value]
    return repr(type(value).__name__)


def main() -> None:
    with open("input.json", encoding="utf-8") as file:
        job = json.load(file)
    os.remove("input.json")
    space = {"__name__": "solution", "__file__": "solution.py"}
    try:
        exec(compile(job["code"], "solution.py", "exec"), space)
        found = space["fit_predict"](job["train_texts"], job["train_labels"], job["texts"])
        answer = json.dumps({"pred": plain(found)})
    except MemoryError:
        sys.exit(77)
    except BaseException as error:
        lines = traceback.format_exception(error)
        own = [part for part in lines if "solution.py" in part][-1:]
        answer = json.dumps({"error": "".join([*own, lines[-1]])[-2000:]})
    with open("output.tmp", "w", encoding="utf-8") as file:
        file.write(answer)
    os.replace("output.tmp", "output.json")


if __name__ == "__main__":
    main()
