#!/usr/bin/env bash
# Prepares the Python environment of this checkout. quickstart.sh and test.sh source it:
#
#   source tools/setup_env.sh run|dev    ("dev" also asks an environment of yours for pytest, ruff …)
#
# Afterwards env_python is the interpreter to use and the project is the current folder.
# Alone, `bash tools/setup_env.sh` does the same.
#
# It fills .venv with torch, torchvision, detectron2 and this package; a stamp written at the very
# end says that .venv is complete, so an interrupted set-up is taken up again, and a complete one
# costs nothing. Errors are one line each; what pip says goes to .venv-setup.log.
#
#   LAMBDA_DET_ENV      a Python, or a virtual environment, that has torch, torchvision and
#                       detectron2 (v0.5, v0.6 or main): used as it is, nothing is installed into it
#   LAMBDA_DET_PYTHON   the Python to build .venv with (default: the first suitable one found)
#   LAMBDA_DET_DISK_GB  disk space asked for before a first set-up (default 8; 0 asks for none)
#   LAMBDA_DET_DETECTRON2  which detectron2 .venv gets: 0.7.2 (default) or 0.5
#   LAMBDA_DET_TORCH    which release of PyTorch .venv gets, 2.4 or later (default 2.14.1)
set -euo pipefail

# torch and torchvision belong together. Here, not in setup.py: who has a pair of their own keeps it.
torch_pair=(torch==2.14.1 torchvision==0.29.1)
oldest_torch=4 # 2.4
python_range="3.10 to 3.13"
detectron2=${LAMBDA_DET_DETECTRON2:-0.7.2}

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$project/.venv
env_python=$venv/bin/python
stamp=$venv/complete.stamp
log=$project/.venv-setup.log

# What the caller named relative to another folder keeps its meaning after the cd.
for variable in LAMBDA_DET_ENV LAMBDA_DET_PYTHON; do
    case ${!variable:-} in
        "" | /*) ;;
        *) [ ! -e "${!variable}" ] || declare "$variable=$PWD/${!variable}" ;;
    esac
done
cd "$project"

setup_fail() {
    echo "error: $*" >&2
    exit 1
}

case $detectron2 in
    0.7.2 | 0.5) ;;
    *) setup_fail "LAMBDA_DET_DETECTRON2=$detectron2 is neither 0.7.2 nor 0.5" ;;
esac
if [ -n "${LAMBDA_DET_TORCH:-}" ]; then
    [[ $LAMBDA_DET_TORCH =~ ^2\.([0-9]{1,3})$ && ${BASH_REMATCH[1]} -ge $oldest_torch ]] ||
        setup_fail "LAMBDA_DET_TORCH=$LAMBDA_DET_TORCH names no release of PyTorch from" \
            "2.$oldest_torch on; it looks like 2.$oldest_torch"
    torch_pair=("torch==$LAMBDA_DET_TORCH.*" "torchvision==0.$((BASH_REMATCH[1] + 15)).*")
fi

setup_step() {
    printf '[%4d s] %s\n' "$((SECONDS - setup_start))" "$*"
}

# python_in_range PYTHON [NEWEST]: whether it is at least 3.10 and at most 3.NEWEST.
python_in_range() {
    local test="import sys; print((3, 10) <= sys.version_info[:2] <= (3, ${2:-13}))"
    [ "$("$1" -c "$test" 2> /dev/null)" = True ]
}

python_version() {
    "$1" -c 'import platform; print("Python", platform.python_version())' 2> /dev/null | grep . ||
        echo "no working Python"
}

# Sets base_python, the interpreter that .venv is made with.
find_python() {
    local candidate without_venv=""
    if [ -n "${LAMBDA_DET_PYTHON:-}" ]; then
        base_python=$(command -v "$LAMBDA_DET_PYTHON") ||
            setup_fail "LAMBDA_DET_PYTHON=$LAMBDA_DET_PYTHON is not a program; name a Python" \
                "$python_range"
        python_in_range "$base_python" || setup_fail "LAMBDA_DET_PYTHON=$LAMBDA_DET_PYTHON is" \
            "$(python_version "$base_python"); Python $python_range is needed"
        "$base_python" -c 'import ensurepip, venv' > /dev/null 2>&1 || without_venv=$base_python
    else
        base_python=""
        for candidate in python3 python3.12 python3.11 python3.13 python3.10 python; do
            candidate=$(command -v "$candidate") || continue
            python_in_range "$candidate" || continue
            if "$candidate" -c 'import ensurepip, venv' > /dev/null 2>&1; then
                base_python=$candidate
                return
            fi
            without_venv=${without_venv:-$candidate}
        done
    fi
    [ -z "$without_venv" ] || setup_fail "$without_venv cannot make virtual environments; install" \
        "its venv module (Debian, Ubuntu: apt install python3-venv) or name another Python in" \
        "LAMBDA_DET_PYTHON"
    [ -n "$base_python" ] || setup_fail "no Python $python_range found on PATH (python3 is" \
        "$(python_version python3)); install one or name it in LAMBDA_DET_PYTHON"
}

# Prints what decides the content of .venv, as one hash.
content_hash() {
    "$1" - "$project" "${torch_pair[*]}" "$detectron2" << 'PYTHON'
import hashlib, pathlib, sys
project = pathlib.Path(sys.argv[1])
parts = [word.encode() for word in (sys.version, *sys.argv[1:])]
for name in (
    "tools/setup_env.sh",
    "tools/install_detectron2.py",
    "setup.py",
    "pyproject.toml",
    "lambda_det/version.py",
):
    parts.append((project / name).read_bytes())
print(hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest())
PYTHON
}

# Runs a command into the log; a failure becomes one line.
logged() {
    local first output status=0
    printf '\n$ %s\n' "$*" >> "$log"
    first=$(wc -l < "$log")
    "$@" >> "$log" 2>&1 < /dev/null || status=$?
    [ "$status" != 0 ] || return 0

    # What this command said; pip has words of its own for each kind of failure.
    output=$(tail -n "+$((first + 1))" "$log")
    said() { grep -qE "$1" <<< "$output"; }
    if said 'No space left on device|Disk quota exceeded'; then
        setup_fail "the disk is full; free about 8 GB and run this again (details: $log)"
    elif said 'Retrying \(Retry|NewConnection|NameResolution|Connection (refused|reset)|timed out' ||
        said 'SSLError|ProxyError|Could not fetch URL|HTTP error'; then
        setup_fail "pip cannot reach its package index; check the network or proxy and run this" \
            "again (details: $log)"
    elif said 'from versions: none'; then
        setup_fail "pip finds no" \
            "$(sed -nE 's/.*satisfies the requirement ([^ ]+) .*/\1/p' <<< "$output" | head -n 1):" \
            "its package index cannot be reached, or has none for" \
            "$(python_version "$env_python") on $(uname -sm) (details: $log)"
    fi
    # Anything else: the last line that calls itself an error.
    setup_fail "$(sed -nE 's/^ *(error|ERROR): //p' <<< "$output" | tail -n 1 | grep . ||
        echo "\`$*\` ended with status $status") (details: $log)"
}

# Runs .venv's Python for the set-up, out of reach of settings meant for other environments.
# pip unpacks several gigabytes on the way: beside .venv, where the space was checked.
venv_python() {
    mkdir -p "$venv/tmp"
    logged env -u PYTHONPATH -u PYTHONHOME -u PIP_TARGET -u PIP_PREFIX -u PIP_REQUIRE_VIRTUALENV \
        PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 TMPDIR="$venv/tmp" \
        "$env_python" "$@"
}

check_disk() {
    local need=${LAMBDA_DET_DISK_GB:-8} free_kb
    case $need in
        *[!0-9]*) setup_fail "LAMBDA_DET_DISK_GB=$need is not a whole number of gigabytes" ;;
    esac
    free_kb=$(df -Pk "$project" 2> /dev/null | awk 'NR == 2 { print $4 }') || free_kb=""
    case $free_kb in '' | *[!0-9]*) return 0 ;; esac # df that cannot tell: let pip try
    [ "$free_kb" -ge "$((need * 1000000))" ] || setup_fail "$((free_kb / 1000000)) GB are free in" \
        "$project and about $need GB are needed; make room, or set LAMBDA_DET_DISK_GB to ask for less"
}

# opencv-python links libGL, which a server often lacks; the headless build does without.
install_opencv() {
    local major
    ! env -u PYTHONPATH "$env_python" -c 'import cv2' >> "$log" 2>&1 || return 0
    venv_python -m pip install opencv-python
    ! env -u PYTHONPATH "$env_python" -c 'import cv2' >> "$log" 2>&1 || return 0
    major=$("$env_python" -c 'from importlib.metadata import version
print(version("opencv-python").split(".")[0])')
    setup_step "opencv-python lacks a system library; opencv-python-headless $major takes its place"
    venv_python -m pip uninstall --yes opencv-python
    venv_python -m pip install "opencv-python-headless==$major.*"
}

# Whether .venv was set up to its end, from these files, here, with the Python asked for.
venv_is_complete() {
    [ -x "$venv/bin/python" ] && [ -f "$stamp" ] || return 1
    [ -z "${LAMBDA_DET_PYTHON:-}" ] || has_version_of "$LAMBDA_DET_PYTHON" || return 1
    [ "$(cat "$stamp")" = "$(content_hash "$venv/bin/python")" ]
}

has_version_of() {
    [ "$(python_version "$venv/bin/python")" = "$(python_version "$1")" ]
}

build_venv() {
    local fault=""
    if ! python_in_range "$env_python" ||
        { [ -n "${LAMBDA_DET_PYTHON:-}" ] && ! has_version_of "$LAMBDA_DET_PYTHON"; }; then
        fault="has $(python_version "$env_python")"
    elif ! grep -qsF "$venv" "$venv/bin/activate"; then
        fault="was made for another place or not to its end"
    fi
    [ -z "$fault" ] || find_python # before anything is removed
    if [ -n "$fault" ] && [ -e "$venv" ]; then
        setup_step "removing $venv, which $fault"
        rm -rf "$venv"
    fi
    compgen -G "$venv/lib/python*/site-packages/torch-*.dist-info" > /dev/null || check_disk
    rm -f "$stamp"
    if [ ! -e "$venv" ]; then
        setup_step "making $venv with $(python_version "$base_python")"
        logged "$base_python" -m venv "$venv"
    fi
    "$env_python" -m pip --version >> "$log" 2>&1 || "$env_python" -m ensurepip >> "$log" 2>&1 ||
        setup_fail "$venv has no pip and its Python brings none; remove that folder and name" \
            "another Python in LAMBDA_DET_PYTHON (details: $log)"

    setup_step "installing ${torch_pair[*]} (a download of about 3 GB)"
    venv_python -m pip install "setuptools>=77" "${torch_pair[@]}"
    setup_step "installing opencv"
    install_opencv
    setup_step "installing detectron2 $detectron2 (Python only)"
    venv_python "$project/tools/install_detectron2.py" "$detectron2"
    setup_step "installing lambda_det"
    venv_python -m pip install --no-build-isolation \
        --editable "${project}[dev,docs,export,pretrain]"
    setup_step "checking"
    venv_python -m pip check
    venv_python -c 'import torch, torchvision, cv2, detectron2.engine, lambda_det'

    rm -rf "$venv/tmp"
    content_hash "$env_python" > "$stamp.new"
    mv "$stamp.new" "$stamp"
    setup_step "the environment is complete"
}

# Checks an environment of the user's; PYTHONPATH entries of theirs come first, then this checkout.
use_environment() {
    env_python=$LAMBDA_DET_ENV
    [ ! -d "$env_python" ] || env_python=$LAMBDA_DET_ENV/bin/python
    env_python=$(command -v "$env_python") ||
        setup_fail "LAMBDA_DET_ENV=$LAMBDA_DET_ENV is neither a Python nor a virtual environment"
    python_in_range "$env_python" 99 || setup_fail "LAMBDA_DET_ENV=$LAMBDA_DET_ENV is" \
        "$(python_version "$env_python"); Python 3.10 or later is needed"
    export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$project
    "$env_python" -W ignore - "$1" << 'PYTHON' || exit 1
import importlib, sys

HEAVY = ("torch", "torchvision", "detectron2")
LIGHT = {
    "numpy": "numpy",
    "cv2": "opencv-python",
    "fvcore": "fvcore",
    "jinja2": "Jinja2",
    "matplotlib": "matplotlib",
    "psutil": "psutil",
    "pycocotools": "pycocotools",
    "scipy": "scipy",
    "shapely": "shapely",
    "tabulate": "tabulate",
    "yaml": "PyYAML",
}
if sys.argv[1] == "dev":
    LIGHT |= {name: name for name in ("hypothesis", "pytest", "ruff")} | {"xdist": "pytest-xdist"}

missing = {}
for name in (*HEAVY, *LIGHT):
    try:
        importlib.import_module(name)
    except Exception as error:
        missing[name] = f"{name} ({' '.join(str(error).split())[:200]})"
who = f"error: {sys.executable} (LAMBDA_DET_ENV)"
if heavy := [text for name, text in missing.items() if name in HEAVY]:
    advice = "install what is missing, or unset LAMBDA_DET_ENV to have .venv built"
    sys.exit(f"{who} cannot import {', '.join(heavy)}; {advice}")
if missing:
    packages = " ".join(LIGHT[name] for name in missing)
    text = ", ".join(missing.values())
    sys.exit(f"{who} cannot import {text}; to add: {sys.executable} -m pip install {packages}")
PYTHON
}

setup_start=$SECONDS
if [ -n "${LAMBDA_DET_ENV:-}" ]; then
    use_environment "${1:-dev}"
elif ! venv_is_complete; then
    : 2> /dev/null >> "$log" || setup_fail "$project cannot be written to, and the environment goes" \
        "to $venv: use a checkout of your own"
    if command -v flock > /dev/null; then # of two set-ups at once, the second waits for the first
        exec 9> "$project/.venv-setup.lock"
        flock -n 9 || { setup_step "waiting for another set-up of $venv" && flock 9; }
    fi
    if ! venv_is_complete; then
        : > "$log"
        build_venv
    fi
    exec 9>&-
fi
