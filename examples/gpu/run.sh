#!/usr/bin/env bash
# run.sh SECONDS [checks] [bench] [profile]: what a GPU has to show, within so many seconds. See README.md beside this file.
set -u
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd); cd "$root" || exit 2
seconds=${1:?usage: run.sh SECONDS [checks] [bench] [profile]}; shift
case $seconds in *[!0-9]*) echo "SECONDS is a whole number, got '$seconds'" >&2; exit 2 ;; esac
steps="${*:-checks bench profile}"
for step in $steps; do case $step in checks | bench | profile) ;; *) echo "unknown step '$step'" >&2; exit 2 ;; esac; done
python=${PYTHON:-python3}
out=${OUT:-$root/runs/gpu-out}; scratch=${VPR_SCRATCH:-${TMPDIR:-/tmp}/vpr-gpu}
mkdir -p "$out" "$scratch/site" || exit 2
out=$(cd "$out" && pwd); scratch=$(cd "$scratch" && pwd); run_id=gpu-$(date +%Y%m%d-%H%M%S); began=$(date +%s); last=0; child=
dry=${VPR_GPU_DRY:+1}; device=cuda; profile=${PROFILE:-gpu}; [ -n "$dry" ] && { device=cpu; profile=${PROFILE:-toy}; }
export VPR_DATA=${VPR_DATA:-$scratch/data} VPR_CACHE=${VPR_CACHE:-$scratch/cache} PYTHONUNBUFFERED=1
export JUPYTER_PATH="$scratch/site/share/jupyter" PYTHONPATH="$root:$scratch/site${PYTHONPATH:+:$PYTHONPATH}" MPLBACKEND=agg

left() { echo $((began + seconds - 6 - $(date +%s) - ${1:-0})); } # seconds until the end, less a few to pack in
say() { echo "[$(($(date +%s) - began)) s] $*"; }
# results.tar.gz in pieces of 15 MB: a piece more or less, `cat results.tar.gz.* | tar xz` reads as far as it goes
pack() {
  local parts=() part
  for part in "figures/$profile" "runs/$run_id"; do [ -e "$part" ] && parts+=("$part"); done
  (cd "$scratch" && for part in *.log *.xml; do [ -e "$part" ] && cp -p "$part" "$out/.logs/"; done) 2>/dev/null
  rm -rf "$scratch/pieces" && mkdir -p "$scratch/pieces"
  tar czf - --exclude=.jupyter -C "$root" ${parts[@]+"${parts[@]}"} -C "$out" .logs \
    $([ -d "$VPR_CACHE/$profile/records" ] && echo -C "$VPR_CACHE" "$profile/records") 2>/dev/null \
    | split -b 15m -d -a 1 - "$scratch/pieces/results.tar.gz."
  rm -f "$out"/results.tar.gz*
  [ -e "$scratch/pieces/results.tar.gz.1" ] || mv "$scratch/pieces/results.tar.gz.0" "$scratch/pieces/results.tar.gz"
  mv $(ls -d "$scratch"/pieces/* | head -5) "$out/"
  "$python" "$here/summary.py" "$out" "runs/$run_id" > "$out/.summary" 2>> "$scratch/summary.log" && mv "$out/.summary" "$out/summary.md"
}
finish() {
  trap '' TERM INT
  [ -n "$child" ] && kill -TERM "$child" 2>/dev/null && for _ in 1 2 3 4 5 6; do kill -0 "$child" 2>/dev/null && sleep 0.5; done
  [ -n "$child" ] && kill -KILL "$child" 2>/dev/null
  pack; rm -rf "$out/.logs" "$out/.summary"; cat "$out/summary.md" 2>/dev/null
  say "done, exit code $last; in $out:"; ls -l "$out" | sed 1d
}
trap 'last=143; exit 143' TERM INT
trap finish EXIT
# step NAME LIMIT COMMAND...: run it for at most LIMIT seconds and what is left; pack whenever a notebook has ended
step() {
  local name=$1 limit=$2 ended=0 now rest code; shift 2
  rest=$(left 8); [ "$limit" -gt "$rest" ] && limit=$rest
  [ "$limit" -lt 6 ] && { say "$name left out: $limit s left"; last=124; return; }
  say "$name, at most $limit s"
  timeout --signal=TERM --kill-after=8 "$limit" "$@" > "$scratch/$name.log" 2>&1 &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    sleep 2
    now=$(grep -cE '"status": "(green|failed|killed|timeout)"' "runs/$run_id/status.json" 2>/dev/null)
    [ "${now:-0}" -gt "$ended" ] && { ended=$now; pack; say "$ended notebooks have ended"; }
  done
  wait "$child"; code=$?; child=
  [ "$code" = 0 ] || { last=$code; tail -n 25 "$scratch/$name.log"; }
  say "$name ended with exit code $code"; pack
}

mkdir -p "$out/.logs"
wheels=$(ls -d "$here/wheels" "$root/wheels" 2>/dev/null | head -1)
[ -n "$wheels" ] && { "$python" "$here/unpack.py" "$wheels" "$scratch/site" || exit 2; say "wheels unpacked"; }
command -v nvidia-smi > /dev/null && nvidia-smi > "$scratch/nvidia-smi.log" 2>&1
for name in $steps; do
  case $name in
    checks) step checks "${CHECKS_SECONDS:-100}" "$python" "$here/checks.py" --device "$device" --out "$out/checks.json" \
      --seconds "${CHECKS_SECONDS:-90}" ${dry:+--few} ;;
    bench) step bench "${BENCH_SECONDS:-90}" "$python" -m vpr_lib.cli bench --gpu --json "$out/bench.json" ;;
    profile) step profile "$(left 25)" "$python" -m vpr_lib.cli run --profile "$profile" --run-id "$run_id" ${RUN_OPTIONS:-${dry:+--only 00}}
      [ -e "runs/$run_id/report/index.html" ] || [ "$(left)" -lt 12 ] || step report 20 "$python" -m vpr_lib.cli report "$run_id" ;;
  esac
done
exit "$last"
