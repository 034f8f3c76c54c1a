#!/usr/bin/env bash
# Environment, lint, tests. Arguments go to pytest: bash tools/test.sh tests/layers -k shift
set -euo pipefail
# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh" dev

"$env_python" -m ruff check .
"$env_python" -m ruff format --check .

# The tensors of the tests are small: more threads than this only get into each other's way.
cores=$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores < 4 ? cores : 4))}
exec "$env_python" -m pytest "$@" < /dev/null
