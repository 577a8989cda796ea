import type { Command } from "commander";
import { jsonLine, PhysariumError, printable } from "../../errors.js";
import type { Admission, AdmittedForm } from "../../farm/admit/admission.js";
import type { Body, OrganFarm } from "../../farm/config/organ-farm.js";
import { farmPath, readFarm } from "../../farm/config/read-config.js";
import { nearestOf } from "../../farm/config/schema.js";
import { sizeWords } from "../../farm/config/units.js";
import { budgetOf } from "../../farm/plan/machine.js";
import { StateFolder } from "../../farm/state/state-folder.js";
import { stopSignal } from "../stop-signal.js";
import { addFarmOptions, type FarmFlags, readOptions } from "./options.js";

/** `physarium farm admit|revert` */
export function registerFarmAdmit(farm: Command): void {
  addFarmOptions(
    farm
      .command("admit")
      .description(
        "the gate: verify a body, make its forms, measure each in the engine that serves it; exit 4 if none passes",
      )
      .argument("<body>", "the body's name"),
  ).action(async (name: string, flags: FarmFlags & { quiet?: boolean }) => {
    const signal = stopSignal();
    const opened = await readFarm(farmPath(flags.file), readOptions(flags));
    const body = bodyOf(opened, name);
    const state = new StateFolder(opened);
    const budget = await budgetOf(opened, {}, state.path);
    const isSilent = flags.quiet || flags.json;
    const onStep = isSilent ? () => {} : (words: string) => void process.stderr.write(`${printable(words)}\n`);
    const { admitBody } = await import("../../farm/admit/admit-body.js");
    const admission = await admitBody(body, { farm: opened, state, budget, onStep, signal });
    process.stdout.write(flags.json ? jsonLine(admission) : `${printable(admissionWords(admission), true)}\n`);
    if (admission.accepted) return;
    const former = await state.currentGeneration(name);
    throw new PhysariumError(
      "VERIFY_ADMISSION",
      `${name}: nothing of it was admitted; ` +
        (former === undefined ? "it is not served" : `generation ${former} goes on being served`),
      { body: name, generation: admission.generation, former: former ?? null },
    );
  });
  addFarmOptions(
    farm
      .command("revert")
      .description("serve the admission before the current one again")
      .argument("<body>", "the body's name"),
  ).action(async (name: string, flags: FarmFlags) => {
    const opened = await readFarm(farmPath(flags.file), readOptions(flags));
    const { revertBody } = await import("../../farm/admit/revert.js");
    const { from, to } = await revertBody(new StateFolder(opened), bodyOf(opened, name).name);
    const words = `${name}: generation ${to} is served again instead of ${from}\n`;
    process.stdout.write(flags.json ? jsonLine({ body: name, from, to }) : printable(words, true));
  });
}

/** Throws `USAGE_ARGUMENT` for a name that the farm has not. */
export function bodyOf(farm: OrganFarm, name: string): Body {
  const body = farm.bodies.get(name);
  if (body !== undefined) return body;
  const nearest = nearestOf(name, farm.bodies.keys());
  const hint =
    nearest === undefined ? `bodies are ${[...farm.bodies.keys()].join(", ") || "none"}` : `did you mean ${nearest}?`;
  throw new PhysariumError("USAGE_ARGUMENT", `there is no body "${name}"; ${hint}`, { name });
}

function admissionWords(admission: Admission): string {
  const { body, generation, accepted, checks, forms, warnings, ledger_sha256: ledger } = admission;
  return [
    `${body}, generation ${generation}: ${accepted ? "admitted" : "rejected"}`,
    `ledger   ${ledger === null ? "none" : `sha256 ${ledger.slice(0, 16)}…`}, ` +
      `engine ${admission.engine || "not asked"}, ` +
      `${admission.sequences} × ${admission.context} tokens`,
    ...checks.map(({ check, passed, found }) => `${passed ? "passed  " : "FAILED  "} ${check}: ${found}`),
    ...forms.flatMap(formWords),
    ...warnings.map((warning) => `warning  ${warning}`),
  ].join("\n");
}

function formWords({ form, byte_length, sha256, loss, load, checks, rejected }: AdmittedForm): string[] {
  const lines = [
    `${form}  ${sizeWords(byte_length)}, sha256 ${sha256.slice(0, 16)}…: ` +
      (rejected === null ? "served" : `REJECTED, ${rejected}`),
  ];
  for (const { check, passed, found } of checks) lines.push(`  ${passed ? "passed" : "FAILED"} ${check}: ${found}`);
  if (loss !== null) {
    lines.push(
      `  loss   KL ${loss.kl_mean.toPrecision(4)} nats (most ${loss.kl_max.toPrecision(3)}), perplexity ` +
        `${loss.perplexity.toPrecision(5)} (donor ${loss.donor_perplexity.toPrecision(5)}), same top token ` +
        `${(100 * loss.same_top).toFixed(1)} %, ${loss.tokens} tokens`,
    );
  }
  if (load !== null) {
    const speeds = load.tokens_per_second.map(
      ({ threads, prompt, answer }) => `${threads}: ${prompt.toFixed(0)} read, ${answer.toFixed(0)} written`,
    );
    lines.push(
      `  load   ${load.load_seconds.toFixed(2)} s, peak ${sizeWords(load.peak_bytes)} at full context, ` +
        `${load.threads} threads ` +
        `(tokens a second by threads: ${speeds.join("; ")})`,
    );
  }
  return lines;
}
