import { shellQuote } from "../../report/report-text.js";
import { rangesOf } from "../few.js";
import { checkMemory, type JobOptions, RETRIES, secondsOf, TRY_AGAIN } from "./job.js";

export interface SlurmOptions extends JobOptions {
  readonly partition?: string;
  readonly account?: string;
  /** Indices of one array stay below this: Slurm's own default is 1001, which allows 0 … 1000. */
  readonly arraySize?: number;
}

export const DEFAULT_ARRAY_SIZE = 1000;

/**
 * A shell script that hands an array of parts to Slurm, and behind it the job that joins them. It depends on the array
 * with `--kill-on-invalid-dep=yes`: where a part fails for good it goes away instead of waiting for ever.
 */
export function slurmScript(options: SlurmOptions): string {
  const { outputPath, parts, partCount, arraySize = DEFAULT_ARRAY_SIZE } = options;
  checkMemory(options.memory);
  secondsOf(options.time);
  const blocks = new Map<number, number[]>();
  for (const part of parts) {
    const base = part - (part % arraySize);
    blocks.set(base, [...(blocks.get(base) ?? []), part - base]);
  }
  const arrays = [...blocks].map(([base, indices], at) => arrayJob(options, at, base, indices));
  const after = arrays.map((_, at) => `:\${parts_${at}%%;*}`).join("");
  const numbers = arrays.length === 0 ? "" : `parts ${arrays.map((_, at) => `\${parts_${at}%%;*}`).join(" ")}, `;
  const dependency = arrays.length === 0 ? "" : ` --dependency="afterok${after}" --kill-on-invalid-dep=yes`;
  return `#!/bin/bash
# ${parts.length} of ${partCount} parts of ${outputPath.replaceAll("\n", " ")}, and the job that joins them.
# Sent by: physarium parts submit … --yes, or: bash <this file>
set -euo pipefail
${arrays.join("")}
finish=$(sbatch --parsable${dependency} <<'FINISH'
#!/bin/bash
${directives(options, "finish", "finish.log").join("\n")}
${options.command} parts finish ${shellQuote(outputPath)} --workers "$SLURM_CPUS_PER_TASK"
${giveBack("$SLURM_JOB_ID")}
FINISH
)
echo "${numbers}finish \${finish%%;*}"
`;
}

function arrayJob(options: SlurmOptions, at: number, base: number, indices: readonly number[]): string {
  const { outputPath, command, throttle } = options;
  const limit = throttle === undefined ? "" : `%${throttle}`;
  const index = base === 0 ? '"$SLURM_ARRAY_TASK_ID"' : `"$((${base} + SLURM_ARRAY_TASK_ID))"`;
  const log = base === 0 ? "part-%a.log" : `part-${base}+%a.log`;
  return `
parts_${at}=$(sbatch --parsable <<'PARTS'
#!/bin/bash
#SBATCH --array=${rangesOf(indices)}${limit}
${directives(options, "parts", log).join("\n")}
${command} parts run ${shellQuote(outputPath)} --part ${index} --workers "$SLURM_CPUS_PER_TASK"
${giveBack(`\${SLURM_ARRAY_JOB_ID}_\${SLURM_ARRAY_TASK_ID}`)}
PARTS
)
`;
}

function directives(options: SlurmOptions, what: string, log: string): string[] {
  const { name, cpus, memory, time, partition, account, folder } = options;
  return [
    `--job-name=${name}-${what}`,
    ...(partition === undefined ? [] : [`--partition=${partition}`]),
    ...(account === undefined ? [] : [`--account=${account}`]),
    "--nodes=1",
    "--ntasks=1",
    `--cpus-per-task=${cpus}`,
    `--mem=${memory}`,
    `--time=${time}`,
    "--requeue",
    "--open-mode=append",
    // A percent sign of the path is none of Slurm's.
    `--output="${folder.replaceAll("%", "%%").replaceAll('"', '\\"')}/logs/${log}"`,
  ].map((option) => `#SBATCH ${option}`);
}

/** The last index of an array has the array's own number: named by that, all of its tasks would be started again. */
function giveBack(job: string): string {
  return `status=$?
# ${TRY_AGAIN} is worth another try: back to the queue, ${RETRIES} times at most.
if [ "$status" -eq ${TRY_AGAIN} ] && [ "\${SLURM_RESTART_COUNT:-0}" -lt ${RETRIES} ]; then
  scontrol requeue "${job}" && sleep 60
fi
exit "$status"`;
}
