"""The process that draws figures: it answers each call on stdin with a line of JSON, null or the class and the text of
the error.
"""

import json
import os
import pickle
import sys


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - its parent writes it, nobody else can
        except EOFError:
            os._exit(0)  # at once: there is nothing to clean up
        try:
            function(*arguments)
            error = None
        except Exception as caught:
            error = type(caught).__name__, str(caught)
        answers.write(json.dumps(error).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
