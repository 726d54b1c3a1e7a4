"""The process that draws figures: reads calls from stdin, answers each with None or the error, ends when stdin does."""

import os
import pickle
import sys


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            os._exit(0)  # at once: there is nothing to clean up
        try:
            function(*arguments)
            error = None
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        pickle.dump(error, answers)
        answers.flush()


if __name__ == "__main__":
    main()
