"""Shell scripts that complete command lines by asking the program; where shells read them. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

BASH = """_swift_complete() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _swift_complete swift
"""
ZSH = """_swift_complete() {
    local -a found
    found=(${(f)"$("${words[1]}" --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -- $found; else _files; fi
}
if ! (( $+functions[compdef] )); then autoload -Uz compinit && compinit; fi
compdef _swift_complete swift
"""
FISH = """function __swift_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    $words[1] --complete $words[2..-1] "$last" 2>/dev/null
end
complete -c swift -a '(__swift_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def install(shell: str) -> list[str]:
    """Writes the script of a shell, and has the shell read it. Returns what was done, a line each.

    Raises KeyError for an unknown shell, OSError for files that cannot be written.
    """
    script = SCRIPTS[shell]
    file = _file(shell)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script, encoding="utf-8")
    done = [f"written: {file}"]
    if shell != "fish":  # which reads its folder of completions
        startup, line = _startup(shell), f'[ -f "{file}" ] && source "{file}"'
        text = startup.read_text(encoding="utf-8") if startup.exists() else ""
        if line not in text.splitlines():
            with startup.open("a", encoding="utf-8") as opened:
                opened.write(f"{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n")
            done.append(f"added to {startup}: {line}")
    return [*done, f"a new {shell} completes the words of swift"]


def _file(shell: str) -> Path:
    if shell == "fish":
        return _folder("XDG_CONFIG_HOME", "~/.config") / "fish/completions/swift.fish"
    return _folder("XDG_DATA_HOME", "~/.local/share") / f"swift/completion.{shell}"


def _startup(shell: str) -> Path:
    return Path("~/.bashrc").expanduser() if shell == "bash" else _folder("ZDOTDIR", "~") / ".zshrc"


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser()
