#!/usr/bin/env bash
# Each extra for sweeps in an environment of its own, as a user installs it: pip check, and a tiny sweep with its launcher.
# usage: tests/extras.sh [joblib slurm ray optuna ...]; slurm needs tests/system/cluster/slurm.sh start, else its sweep is left out
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
PLACE=$(mktemp -d)
trap 'rm -rf "$PLACE"' EXIT
TINY=(model=lstm model.hidden_size=8 data.image_size=8 batch_size=256 max_steps=2 progress=false seed=0,1)

declare -A SWEEP=(
    [joblib]=hydra/launcher=joblib
    [slurm]=hydra/launcher=submitit_slurm
    [ray]=hydra/launcher=ray
    [optuna]="hydra/sweeper=optuna hydra.sweeper.n_trials=2 hydra.sweeper.uniform_trials=0 hydra.sweeper.repeat.best=0"
)
[ $# -gt 0 ] || set -- joblib slurm ray optuna
for extra in "$@"; do
    begun=$SECONDS
    python3 -m venv "$PLACE/$extra"
    "$PLACE/$extra/bin/pip" install --quiet -e "$ROOT[$extra]"
    "$PLACE/$extra/bin/pip" check
    if [ "$extra" = slurm ] && ! squeue >/dev/null 2>&1; then
        echo "$extra: installs; no Slurm here to run a sweep on"
        continue
    fi
    mkdir "$PLACE/run-$extra"
    (cd "$PLACE/run-$extra" && "$PLACE/$extra/bin/python" -m lwexp.run -m ${SWEEP[$extra]} "${TINY[@]}")
    rm -rf "${PLACE:?}/$extra"
    echo "$extra: ok, $((SECONDS - begun)) s"
done
