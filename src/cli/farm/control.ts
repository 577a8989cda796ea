import type { Command } from "commander";
import { jsonLine, PhysariumError, printable } from "../../errors.js";
import { organsOf } from "../../farm/config/organ-farm.js";
import { sizeWords } from "../../farm/config/units.js";
import type { farmView } from "../../farm/http/views.js";
import { askServer, serverOf } from "../../farm/serve/farm-client.js";
import { readTierState } from "../../farm/serve/tier-state.js";
import { type JournalRecord, readJournal } from "../../farm/state/journal.js";
import { StateFolder } from "../../farm/state/state-folder.js";
import { toCount } from "../arguments.js";
import { addFarmOptions, type FarmFlags, openFarm } from "./options.js";
import { KEY_VARIABLE } from "./serve.js";

interface ControlFlags extends FarmFlags {
  apiKey?: string;
}

type View = ReturnType<typeof farmView>;

/** `physarium farm ps|load|unload|pin|history`: a farm at work, and what it did. */
export function registerFarmControl(farm: Command): void {
  const control = (name: string, description: string): Command =>
    addFarmOptions(farm.command(name).description(description)).option(
      "--api-key <key>",
      `the server's key (default: ${KEY_VARIABLE})`,
    );
  const keyOf = (flags: ControlFlags): string | undefined => flags.apiKey ?? process.env[KEY_VARIABLE];

  control("ps", "what is where: bodies with tier, memory and queue, organs with score").action(
    async (flags: ControlFlags) => {
      const opened = await openFarm(flags);
      const state = new StateFolder(opened);
      if ((await serverOf(state)) === undefined) {
        const kept = await readTierState(state.tierState);
        if (flags.json) process.stdout.write(jsonLine({ running: false, state: kept ?? null }));
        else
          process.stdout.write(
            `no server of this farm is at work${kept === undefined ? "" : ` (state of ${kept.at})`}\n`,
          );
        return;
      }
      const view = await askServer<View>(state, "/farm", keyOf(flags));
      process.stdout.write(flags.json ? jsonLine({ running: true, ...view }) : `${printable(psWords(view), true)}\n`);
    },
  );
  for (const [verb, description] of [
    ["load", "load a body now, and wait until it is there"],
    ["unload", "give a body's memory back once its answers are written"],
  ] as const) {
    control(verb, description)
      .argument("<body>", "body, or an organ of it")
      .action(async (name: string, flags: ControlFlags) => {
        const opened = await openFarm(flags);
        const body = opened.organs.get(name)?.body ?? name;
        if (!opened.bodies.has(body))
          throw new PhysariumError("USAGE_ARGUMENT", `there is no organ and no body "${name}"`);
        const path = `/farm/bodies/${encodeURIComponent(body)}/${verb}`;
        const found = await askServer<View["bodies"][number]>(new StateFolder(opened), path, keyOf(flags), true);
        process.stdout.write(flags.json ? jsonLine(found) : `${printable(bodyWords(found))}\n`);
      });
  }
  control("pin", "keep a body from being evicted; --off lets it go again")
    .argument("<name>", "organ or body")
    .option("--off", "unpin")
    .action(async (name: string, flags: ControlFlags & { off?: boolean }) => {
      const opened = await openFarm(flags);
      const kind = opened.organs.has(name) ? "organs" : "bodies";
      if (kind === "bodies" && organsOf(opened, name).length === 0) {
        throw new PhysariumError("USAGE_ARGUMENT", `there is no organ and no body with organs "${name}"`);
      }
      const path = `/farm/${kind}/${encodeURIComponent(name)}/${flags.off ? "unpin" : "pin"}`;
      const found = await askServer<{ pinned: boolean }>(new StateFolder(opened), path, keyOf(flags), true);
      process.stdout.write(
        flags.json ? jsonLine(found) : `${printable(name)} is ${found.pinned ? "pinned" : "not pinned"}\n`,
      );
    });
  addFarmOptions(farm.command("history").description("admissions, reverts, loads, evictions and answers, as they came"))
    .argument("[body]", "of one body")
    .option("--limit <n>", "the latest so many", toCount, 50)
    .action(async (body: string | undefined, flags: FarmFlags & { limit: number }) => {
      const state = new StateFolder(await openFarm(flags));
      const all = await readJournal(state.journal);
      const chosen = (body === undefined ? all : all.filter((record) => record.body === body)).slice(-flags.limit);
      if (flags.json) process.stdout.write(jsonLine({ history: chosen }));
      else for (const record of chosen) process.stdout.write(`${printable(recordWords(record))}\n`);
    });
}

function psWords({ budget, used, bodies, organs }: View): string {
  return [
    `VRAM ${sizeWords(used.VRAM)} of ${sizeWords(budget.VRAM)}, ` +
      `RAM ${sizeWords(used.RAM)} of ${sizeWords(budget.RAM)}, ` +
      `SSD ${sizeWords(used.SSD)} of ${sizeWords(budget.SSD)}`,
    ...bodies.map(bodyWords),
    ...organs.map(
      ({ name, body, score, answers, pinned, verifier }) =>
        `  ${name.padEnd(16)} on ${body}, score ${score.toFixed(3)}, ${answers} answers, ` +
        `verifier ${verifier ?? "none"}` +
        `${pinned ? ", pinned" : ""}`,
    ),
  ].join("\n");
}

function bodyWords(body: View["bodies"][number]): string {
  const {
    name,
    status,
    form,
    tier,
    ram_bytes: ram,
    vram_bytes: vram,
    waiting,
    in_flight: busy,
    pid,
    generation,
  } = body;
  const place =
    form === null
      ? "on the SSD"
      : `${form} in ${tier}, RAM ${sizeWords(ram)}, VRAM ${sizeWords(vram)}, pid ${pid ?? "–"}`;
  const refusal = body.unavailable === null ? "" : `; ${body.unavailable}`;
  const work = `${busy} at work, ${waiting} waiting`;
  return `${name.padEnd(18)} ${status}, ${place}, generation ${generation}, ${work}${refusal}`;
}

function recordWords({ at, event, ...more }: JournalRecord): string {
  const facts = Object.entries(more).map(
    ([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`,
  );
  return `${at}  ${event.padEnd(14)} ${facts.join(", ")}`;
}
