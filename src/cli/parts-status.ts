import { jsonLine, printable } from "../errors.js";
import { fewOf } from "../parts/few.js";
import type { PartStatus, PartsStatus } from "../parts/status.js";
import { shellQuote } from "../report/report-text.js";

/** Lines of one state are cut off here; `--json` has all. */
const MOST_LINES = 20;

export function describeStatus(status: PartsStatus): string {
  const { output, state, part_count, done, running, failed, missing, byte_length, bytes_done } = status;
  const share = byte_length === 0 ? 100 : (100 * bytes_done) / byte_length;
  const lines = [
    `${printable(output)}: ${part_count} parts, ${done} done (${share.toFixed(1)} % of the bytes), ` +
      `${running} running, ${failed} failed, ${missing} missing`,
  ];
  if (state === "joined") return `${lines[0]}; joined, the output is finished\n`;
  lines.push(...listed(status, "running", ({ part, host, at }) => `part ${part} on ${host} since ${at}`));
  lines.push(
    ...listed(
      status,
      "failed",
      ({ part, host, at, why, code, retry }) =>
        `part ${part} on ${host} at ${at}: ${why} [${code}]${retry ? ", worth another try" : ""}`,
    ),
  );
  const told = status.parts.filter((part) => part.state === "missing" && part.why !== undefined);
  lines.push(...told.slice(0, MOST_LINES).map(({ part, why }) => `  missing  part ${part}: ${printable(why!)}`));
  const untouched = status.parts.filter((part) => part.state === "missing" && part.why === undefined);
  if (untouched.length > 0) lines.push(`  missing  ${fewOf(untouched.map(({ part }) => part))}: nobody has begun`);
  const path = printable(shellQuote(output));
  lines.push(
    failed + missing > 0
      ? `next: physarium parts run ${path} --part I for these, or physarium parts submit ${path} --on … --missing`
      : running > 0
        ? "next: wait for them"
        : `next: physarium parts finish ${path}`,
  );
  return `${lines.join("\n")}\n`;
}

function listed({ parts }: PartsStatus, state: PartStatus["state"], words: (part: PartStatus) => string): string[] {
  const all = parts.filter((part) => part.state === state);
  const lines = all.slice(0, MOST_LINES).map((part) => `  ${state.padEnd(8)} ${printable(words(part))}`);
  if (all.length > MOST_LINES) lines.push(`  ${state.padEnd(8)} and ${all.length - MOST_LINES} more: --json has them`);
  return lines;
}

export function statusJson(status: PartsStatus): string {
  return jsonLine(status);
}
