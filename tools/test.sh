#!/usr/bin/env bash
# Environment, lint, types, tests. Arguments go to pytest: bash tools/test.sh tests/layers -k shift
# The tests run in as many processes as there are cores, up to four; -n 0 takes one.
# Without arguments, what depends on detectron2 most runs a second time, on detectron2 0.5.
set -euo pipefail
# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh" dev

"$env_python" -m ruff check .
"$env_python" -m ruff format --check .
if "$env_python" -c 'import importlinter' 2> /dev/null; then
    "$env_python" -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo --no-cache
else # Python 3.10, or an environment of the user's
    echo "which room imports which is not checked: $env_python has no import-linter"
fi
if "$env_python" -c 'import mypy' 2> /dev/null; then
    "$env_python" -m mypy
else # an environment of the user's; .venv has it
    echo "types are not checked: $env_python has no mypy"
fi

# The tensors of the tests are small: cores help as processes, not as threads. A process takes about
# 2 GB; the tests of a file stay together, because they share what takes long to make.
cores=$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
run_tests() {
    "$env_python" -m pytest -n "$((cores < 4 ? cores : 4))" --dist loadfile "$@" < /dev/null
}
run_tests "$@"

# An environment of the user's is tested on its own detectron2 alone.
if [ "$#" = 0 ] && [ -z "${LAMBDA_DET_ENV:-}" ] && [ "$detectron2" != 0.5 ]; then
    second=$venv/detectron2-0.5 # a folder before the environment's own detectron2
    if [ ! "$second" -nt tools/install_detectron2.py ]; then
        venv_python tools/install_detectron2.py 0.5 --target "$second"
    fi
    export PYTHONPATH=$second${PYTHONPATH:+:$PYTHONPATH}
    run_tests tests/stock tests/engine tests/test_*config*.py
fi
