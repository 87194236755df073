#!/usr/bin/env bash
# Snakemake overlooks changed params of a job whose ancient() input is made again in the same run.
#
# Version: Snakemake 9.27.1, Python 3.11.
# Guess: ancient() makes Snakemake ignore the time of an input, and nothing else: a job whose params
#   changed runs again, whatever else runs.
# Seen: params of one job changed: it runs again, as told. Params of that job and of the one that
#   makes its ancient() input changed: the input is made again, the job keeps its old output, and
#   the run ends well. The same command given once more runs it.
# Source: seen by the commands below; the reasons of jobs are found by update_needrun in
#   snakemake/dag.py.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check snakemake==9.27.1
cd "$folder"
cat > Snakefile <<'RULES'
rule out:
    input: ancient("in.txt")
    output: "out.txt"
    params: word=config["word"]
    shell: "echo {params.word} > {output}"

rule made:
    output: "in.txt"
    params: word=config["other"]
    shell: "echo {params.word} > {output}"
RULES
run() {
  "$folder/env/bin/snakemake" --cores 1 --quiet all --config "word=$1" "other=$2" -- out.txt >/dev/null 2>&1
  cat out.txt
}
first=$(run one a)
alone=$(run two a)
both=$(run three b)
again=$(run three b)
echo "one changed: $alone; both changed: $both; the same command again: $again"
test "$first" = one
test "$alone" = two || { echo "changed params no longer run a job again"; exit 1; }
test "$both" = two || { echo "the change is no longer overlooked"; exit 1; }
test "$again" = three || { echo "a second run no longer notices"; exit 1; }
