#!/usr/bin/env bash
# Train a new token on miniworld, from settings to exported files, in about a minute on a CPU.
#
# The script writes a settings file, trains both stages (textual inversion, then LoRA tuning) on six images of the character
# "ember", evaluates the result, exports it, and samples two images. The numbers of steps are far too small to learn the
# character: the aim is to see every command and every file once. For a result that can be looked at, leave out the
# settings of the block "tiny"; that takes longer. Nothing is downloaded.
# Usage: bash examples/miniworld_in_5_minutes.sh [FOLDER]      PYTHON names the interpreter.
set -euo pipefail
python=${PYTHON:-python}
folder=${1:-miniworld-run}

tiny=(
  --set inversion.steps=10 --set lora.steps=10            # 1000 each by default
  --set data.latent_refinement_steps=0                    # no latent refinement
  --set evaluation.images_per_prompt=2 --set sampler.num_inference_steps=4 --set validation.images_per_prompt=1
)

# 1. A file with every setting, explained. Change it as you like.
mkdir -p "$folder"
[ -e "$folder/settings.toml" ] || "$python" -m pti init "$folder/settings.toml"

# 2. Train, evaluate and export. The same command continues a run that was interrupted.
"$python" -m pti run "$folder/settings.toml" --out "$folder/ember" --set data.source=miniworld:ember "${tiny[@]}"

# 3. Sample with the tuned model.
"$python" -m pti sample "$folder/ember" --count 2 --prompt "a pixel drawing of {token}, by the sea" --out "$folder/ember.png"

ls "$folder/ember" "$folder/ember/export"
