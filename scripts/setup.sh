#!/bin/sh
# Finds a Python that fits and lets it set up .venv: sh scripts/setup.sh demo|dev
# PYTHON=/path/to/python3.12 chooses one. Plain sh, since nothing else is sure to be there.
set -eu
cd "$(dirname "$0")/.."

fits='import sys, ssl, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
with_pip="$fits
"'import ensurepip'

candidates() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
        return
    fi
    for version in 3.14 3.13 3.12 3.11; do
        echo "python$version"
        for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin \
            /opt/homebrew/bin /usr/local/bin /usr/bin "$HOME"/.local/bin \
            /Library/Frameworks/Python.framework/Versions/"$version"/bin; do
            [ -x "$folder/python$version" ] && echo "$folder/python$version"
        done
    done
    echo python3
    echo python
    if command -v uv >/dev/null 2>&1; then
        uv python find --offline '>=3.11,<3.15' 2>/dev/null || true
    fi
}

# A .venv that is there keeps its Python, unless another was chosen.
if [ -z "${PYTHON:-}" ] && .venv/bin/python -c "$fits" >/dev/null 2>&1; then
    exec .venv/bin/python scripts/setup.py "$@"
fi

# First one that can also give its environment a pip, then one that cannot.
for condition in "$with_pip" "$fits"; do
    found=$(candidates | while IFS= read -r python; do
        if "$python" -c "$condition" >/dev/null 2>&1; then
            echo "$python"
            break
        fi
    done)
    if [ -n "$found" ]; then
        exec "$found" scripts/setup.py "$@"
    fi
done

if [ -n "${PYTHON:-}" ]; then
    echo "PYTHON=$PYTHON is not a Python 3.11 to 3.14 with the modules ssl and venv." >&2
else
    echo "No Python 3.11 to 3.14 with the modules ssl and venv was found (tried python3.14 to python3.11, python3, pyenv, uv)." >&2
fi
echo "Get one, for example:" >&2
echo "    Debian, Ubuntu:  sudo apt install python3 python3-venv" >&2
echo "    Fedora:          sudo dnf install python3.12" >&2
echo "    macOS:           brew install python@3.13" >&2
echo "    anywhere:        uv python install 3.13, or pyenv install 3.13" >&2
echo "or name one: make setup PYTHON=/path/to/python3.12" >&2
exit 1
