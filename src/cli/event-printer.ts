import { jsonLine } from "../errors.js";
import { findFlow } from "../flow/flows.js";
import type { MatchRecord } from "../record/matching.js";
import type { SurgeryEvent } from "../surgery/events.js";
import { tellsEvents } from "./events.js";
import { createProgress, duration, type ProgressStyle } from "./progress.js";

/** Turns the run's events into progress, notes or JSON lines. */
export function createEventPrinter(flags: ProgressStyle & { readonly flow?: string }): {
  event(event: SurgeryEvent): void;
  stop(): void;
} {
  // `--events` has one form in every command; these lines are older and go with `--json` alone.
  if (flags.json && !tellsEvents()) {
    // Progress comes with every piece; a machine wants to follow, not to drown.
    let lastProgress = 0;
    return {
      event(event) {
        if (event.event === "progress") {
          if (performance.now() - lastProgress < 250) return;
          lastProgress = performance.now();
        }
        process.stderr.write(jsonLine(event));
      },
      stop() {},
    };
  }
  const progress = createProgress("physarium", flags);
  // Bytes written say nothing about v2's pace, layers do.
  let left = findFlow(flags.flow ?? "")?.consumesActivations ? "…" : undefined;
  return {
    event(event) {
      if (event.event === "progress") {
        const killed =
          event.target_weights_done === 0
            ? ""
            : `, killed ${((100 * event.killed) / event.target_weights_done).toFixed(2)} % of target so far`;
        progress.update(
          event.bytes_done,
          event.bytes_total,
          `${event.phase} ${event.tensors_done}/${event.tensors_total} tensors${killed}`,
          left,
        );
      } else if (event.event === "note") progress.note(event.message);
      else if (event.event === "warning") progress.note(`warning: ${event.message} [${event.code}]`);
      else if (event.event === "layer") {
        const { layer, layers, loss_before, loss_after, seconds_left, is_done } = event;
        if (seconds_left !== undefined) left = duration(seconds_left);
        const losses =
          loss_before === undefined || loss_after === undefined
            ? is_done
              ? "done by an earlier run"
              : "nothing to operate on"
            : `relative output error ${loss_before.toPrecision(3)} → ${loss_after.toPrecision(3)}` +
              matchWords(event.match);
        const more = layer + 1 < layers ? `, about ${left} left` : "";
        progress.note(`layer ${layer + 1} of ${layers}: ${losses}${more}`);
      } else if (event.event === "distilled") {
        const { step, steps, divergence, seconds_left } = event;
        left = duration(seconds_left);
        progress.note(
          `distilled ${step} of ${steps} steps: KL from the donor ${divergence.toFixed(4)}, about ${left} left`,
        );
      } else if (event.event === "searched") {
        const expected = (100 * event.expected_sparsity).toFixed(3);
        progress.note(
          `found survival ${event.survival.toPrecision(6)}, expected sparsity ${expected} % of target weights ` +
            `(asked for ${100 * event.target_sparsity} %)`,
        );
      }
    },
    stop: () => progress.stop(),
  };
}

function matchWords(match: MatchRecord | undefined): string {
  if (match === undefined) return "";
  const [before, after] = [match.held_out_before, match.held_out_after].map((loss) => loss.toPrecision(3));
  return `; matched, held-out error of the layer ${before} → ${after} in ${match.steps} steps`;
}
