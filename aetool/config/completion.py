"""Tab completion: commands by us, groups, options and keys by Hydra."""

import os
import shlex
from collections.abc import Container, Iterable

from aetool.config.tree import config_tree, plurals
from aetool.errors import UserError

SCRIPT = """_aetool() {
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" aetool -sc query=bash 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/.] ]] && compopt -o nospace
    # readline replaces only what follows the last `=`
    local word=${COMP_LINE:0:$COMP_POINT}; word=${word##* }
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}"); fi
}
complete -F _aetool aetool"""


def complete(words: list[str], commands: Iterable[str], composed: Container[str]) -> int:
    """`install=bash` prints the script to evaluate, `query=bash` the completions of $COMP_LINE, one a line."""
    if words == ["install=bash"]:
        print(SCRIPT)
    elif words == ["uninstall=bash"]:
        print("complete -r aetool; unset -f _aetool")
    elif words == ["query=bash"]:
        print("\n".join(candidates(os.environ.get("COMP_LINE", ""), commands, composed)))
    else:
        raise UserError(f"-sc {' '.join(words)}: expected install=bash, uninstall=bash or query=bash")
    return 0


def candidates(line: str, commands: Iterable[str], composed: Container[str]) -> list[str]:
    """What the last word of `line` (which starts with the program's name) can become.

    The first word is one of `commands`; after a `composed` one Hydra completes groups, options and keys.
    """
    _, _, rest = line.partition(" ")
    command, space, rest = rest.lstrip().partition(" ")
    if not space:
        return [name for name in commands if name.startswith(command)]
    last = rest.rpartition(" ")[2]
    if command == "data":
        return [name for name in ("list", "fetch", "check") if name.startswith(last)]
    if command == "list":
        with config_tree() as loader:
            return [name for name in plurals(loader) if name.startswith(last)]
    if command not in composed:
        return []
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    try:
        shlex.split(rest)
    except ValueError:
        return []
    rest = " ".join(word for word in rest.split(" ") if word not in ("-m", "--multirun"))
    with config_tree() as loader:
        return BashCompletion(loader)._query(config_name=command, line=rest)
