#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Speed of the published layer shapes of docs/performance-log.md: tables on the screen, JSON and a plot beside the
# executable.
# Usage: tools/bench.sh MOESAIC [DEVICE]   (DEVICE: cuda:0 where there is a GPU, else cpu)
set -euo pipefail
moesaic=$1
device=${2:-$(ls /dev/nvidia[0-9]* >/dev/null 2>&1 && echo cuda:0 || echo cpu)}
narrower=()
if [[ "$device" == cpu ]]; then narrower=(--tokens 1,8,64); fi
out=$(dirname "$moesaic")/bench
mkdir -p "$out"
for model in mixtral-8x7b qwen3-30b-a3b; do
  "$moesaic" bench moe --model "$model" --recipe bf16 "${narrower[@]}" --device "$device" --json >"$out/$model.json"
  python3 - "$out/$model.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
print(f"\n{r['model']} {r['recipe']} on {r['device']}: read {r['read_tb_per_s']:.3f} TB/s, copy {r['copy_tb_per_s']:.3f} TB/s{'; FAULTY: ' + '; '.join(r['faults']) if r['faulty'] else ''}")
print("  tokens       us  floor us  of floor   TB/s  TFLOP/s")
for p in r["points"]:
    print(f"  {p['tokens']:6d} {p['time_us']:8.1f} {p['floor_us']:9.1f} {100 * p['fraction_of_floor']:8.0f}% {p['weight_tb_per_s']:6.2f} {p['tflop_per_s']:8.1f}")
PY
done
python3 "$(dirname "$0")/../bench/plot.py" "$out"/{mixtral-8x7b,qwen3-30b-a3b}.json -o "$out/moe.svg"
echo "drawn: $out/moe.svg"
