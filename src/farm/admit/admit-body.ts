import { createHash } from "node:crypto";
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { verify } from "../../audit/verify.js";
import { openDonor } from "../../checkpoint/donor.js";
import { attempt } from "../../checkpoint/file-layer.js";
import type { ModelSource } from "../../checkpoint/model-source.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../../errors.js";
import { exportGguf } from "../../export/gguf/export.js";
import { takeLock } from "../../output/lock.js";
import { exists } from "../../output/place.js";
import { isPackedFolder } from "../../pack/manifest.js";
import { unpackedView } from "../../pack/packed-files.js";
import { GATE_PROMPTS } from "../../probe/gate.js";
import { promptTokens } from "../../probe/generate.js";
import { TextTokenizer } from "../../probe/text/tokenizer.js";
import { isOperated, openLedger, recordPath } from "../../record/open-record.js";
import { openSource } from "../../sources.js";
import { PHYSARIUM_VERSION } from "../../version.js";
import { parseAnchors } from "../config/anchors.js";
import { type Body, isElsewhere, type Organ, type OrganFarm, organsOf } from "../config/organ-farm.js";
import { ChildBody } from "../engine/child-engine.js";
import type { BodySpec } from "../engine/engine.js";
import type { Speed } from "../engine/protocol.js";
import { runShapeOf } from "../plan/farm-plan.js";
import type { RunShape } from "../plan/footprint.js";
import { layoutOfForm, typeOfForm } from "../plan/forms.js";
import type { MachineBudget } from "../plan/machine.js";
import { Journal } from "../state/journal.js";
import { digestOf, type StateFolder, tie } from "../state/state-folder.js";
import { type Admission, type AdmittedForm, type CheckRecord, servable } from "./admission.js";
import { checkAnchors, checkDeterminism, checkTokens } from "./check-form.js";
import { bestThreads, measureFullLoad, threadCounts } from "./measure-load.js";
import { lossOf, type Reference, referenceOf } from "./measure-loss.js";

export interface AdmitOptions {
  readonly farm: OrganFarm;
  readonly state: StateFolder;
  readonly budget: MachineBudget;
  /** Told what is being done. */
  readonly onStep?: (words: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * The gate: prove a body, make its forms, measure each in the engine that will serve it, and let it in or not. What was
 * served before goes on being served where nothing of the new passes; both stay in the history.
 *
 * Throws `USAGE_*`, `DONOR_*`, `IO_*` for what keeps it from being tried at all.
 */
export async function admitBody(body: Body, options: AdmitOptions): Promise<Admission> {
  const { farm, state } = options;
  if (isElsewhere(farm.engine)) {
    throw new PhysariumError(
      "USAGE_ENGINE",
      "a server that runs elsewhere loads no files of ours, so nothing can be admitted for it; give its path instead",
    );
  }
  await attempt("creating", state.body(body.name), () => mkdir(state.body(body.name), { recursive: true }));
  const lock = await takeLock(join(state.body(body.name), "admission"));
  try {
    await sweepUnfinished(state, body.name);
    return await new AdmissionRun(body, options).run();
  } finally {
    await lock.release();
  }
}

/** What a killed admission left: folders without a record. */
async function sweepUnfinished(state: StateFolder, body: string): Promise<void> {
  for (const generation of await state.generations(body)) {
    const folder = state.generation(body, generation);
    if (await exists(join(folder, "admission.json"))) continue;
    await attempt("removing", folder, () => rm(folder, { recursive: true, force: true }));
  }
}

class AdmissionRun {
  private readonly organs: readonly Organ[];
  private readonly warnings: string[] = [];
  private readonly say: (words: string) => void;
  private reference: Reference | undefined;
  private engine = "";

  constructor(
    private readonly body: Body,
    private readonly options: AdmitOptions,
  ) {
    this.organs = organsOf(options.farm, body.name);
    this.say = options.onStep ?? (() => {});
  }

  async run(): Promise<Admission> {
    const { body, options } = this;
    const { state } = options;
    const former = await state.currentGeneration(body.name);
    const generation = ((await state.generations(body.name)).at(-1) ?? 0) + 1;
    const folder = state.generation(body.name, generation);
    await attempt("creating", folder, () => mkdir(folder, { recursive: true }));
    const journal = await Journal.open(state.journal);
    try {
      const admission = await this.examine(generation);
      await state.writeAdmission(admission);
      const { accepted, forms } = admission;
      const facts = { body: body.name, generation, former: former ?? null, forms: forms.map(wordsOf) };
      await journal.append(accepted ? "admitted" : "rejected", facts);
      if (accepted) {
        await state.setCurrent(body.name, generation);
        // One step back is always open, to what was served until now.
        await state.keepForms(body.name, [generation, ...(former === undefined ? [] : [former])]);
        for (const { file, rejected } of forms) if (rejected !== null) await rm(join(folder, file), { force: true });
      } else await state.dropForms(body.name, generation);
      return admission;
    } catch (error) {
      // Not tried to its end: nothing of it counts.
      await rm(folder, { recursive: true, force: true }).catch(() => {});
      throw error;
    } finally {
      await journal.close();
    }
  }

  private async examine(generation: number): Promise<Admission> {
    const { body } = this;
    const source = await openSource(body.source);
    const tokenizer = await TextTokenizer.open(source, this.stop());
    try {
      const donor = await openDonor(source);
      const layouts = [];
      for (const form of body.forms) layouts.push(await layoutOfForm(donor, form));
      await this.requireRoom(layouts.reduce((sum, { fileBytes }) => sum + fileBytes, 0));
      const run = runShapeOf(body, layouts[0].shape.maxContext);
      const ledger = await this.ledgerDigest();
      const checks = [await this.verified(ledger)];
      const forms: AdmittedForm[] = [];
      if (checks.every(({ passed }) => passed)) {
        for (const form of body.forms) forms.push(await this.form(form, generation, run, ledger, source, tokenizer));
      }
      return {
        version: 1,
        body: body.name,
        generation,
        at: new Date().toISOString(),
        physarium_version: PHYSARIUM_VERSION,
        engine: this.engine,
        source: body.source,
        ledger_sha256: ledger ?? null,
        context: run.context,
        sequences: run.sequences,
        accepted: forms.some(({ rejected }) => rejected === null),
        checks,
        forms,
        warnings: [...new Set([...layouts.flatMap((layout) => layout.warnings), ...this.warnings])],
      };
    } finally {
      tokenizer.close();
      await source.close();
    }
  }

  /** SHA-256 of the ledger, or `undefined` for a model that was never operated on. */
  private async ledgerDigest(): Promise<string | undefined> {
    const { source } = this.body;
    if (!(await isOperated(source))) return undefined;
    const bytes = await readFile(recordPath(source, "ledger"));
    return createHash("sha256").update(bytes).digest("hex");
  }

  private async verified(ledger: string | undefined): Promise<CheckRecord> {
    const { source } = this.body;
    if (ledger === undefined) {
      this.warnings.push("the model was never operated on: no ledger says where its weights are from");
      return { check: "verify", passed: true, found: "no ledger: nothing to verify" };
    }
    const donorPath = await this.donorPath();
    this.say(`${this.body.name}: verify against ${donorPath === source ? "its ledger" : donorPath}`);
    const against = donorPath === source ? {} : { donorPath };
    // A packed folder is read through a view that decodes it; the view lives in this thread.
    const packed = (await isPackedFolder(source)) ? await unpackedView(source) : undefined;
    const how = packed === undefined ? {} : { files: packed.files, workers: 0 };
    const { ok, differences, guarantee } = await verify(source, {
      ...against,
      ...how,
      parity: "sample",
      ...this.stop(),
    }).finally(() => packed?.close());
    const [first] = differences;
    const found = ok
      ? `ok (${guarantee})`
      : `${differences.length} differences, first ${first.where}: ${first.message}`;
    return { check: "verify", passed: ok, found };
  }

  /** The donor that the file or the ledger names, if it is there; else the body itself. */
  private async donorPath(): Promise<string> {
    const { donor, source } = this.body;
    if (donor !== undefined) return donor;
    if (!(await isOperated(source))) return source;
    const { path } = (await openLedger(source)).header.donor;
    if (await exists(join(path, "config.json"))) return path;
    this.warnings.push(`the donor ${path} is not there: loss is measured against the operated model itself`);
    return source;
  }

  private async form(
    form: string,
    generation: number,
    run: RunShape,
    ledger: string | undefined,
    source: ModelSource,
    tokenizer: TextTokenizer,
  ): Promise<AdmittedForm> {
    const { body, options } = this;
    const file = join(options.state.generation(body.name, generation), `${form}.gguf`);
    this.say(`${body.name} ${form}: export`);
    await exportGguf(source, file, { type: typeOfForm(form), ...this.stop() });
    const { sha256, byteLength } = await digestOf(file);
    const checks: CheckRecord[] = [];
    const made = {
      form,
      file: `${form}.gguf`,
      byte_length: byteLength,
      sha256,
      tied: tie(ledger ?? "none", form, sha256),
    };
    const found: { loss: AdmittedForm["loss"]; load: AdmittedForm["load"]; rejected: string | null } = {
      loss: null,
      load: null,
      rejected: null,
    };
    try {
      const spec = { body: body.name, file, form, ...run, threads: 1, gpuLayers: 0, engine: options.farm.engine };
      const speeds = await this.checkInEngine(spec, source, tokenizer, checks, (loss) => {
        found.loss = loss;
      });
      const threads = body.threads === "auto" ? bestThreads(speeds) : body.threads;
      // What is not let in need not be measured further.
      const isBroken = checks.some(({ passed }) => !passed);
      if (!isBroken) this.say(`${body.name} ${form}: load at full context`);
      found.load = isBroken
        ? null
        : await this.withEngine({ ...spec, threads }, (child) => measureFullLoad(child, speeds));
    } catch (error) {
      // What the engine does to one form says nothing about the others.
      if (!isPhysariumError(error) || ["STOPPED", "USAGE_ENGINE"].includes(error.code)) throw error;
      found.rejected = error.message;
    }
    const broken = checks.find(({ passed }) => !passed);
    if (broken !== undefined) found.rejected = `${broken.check}: ${broken.found}`;
    this.say(`${body.name} ${form}: ${found.rejected === null ? "passed" : `rejected, ${found.rejected}`}`);
    return { ...made, ...found, checks };
  }

  private async checkInEngine(
    spec: BodySpec,
    source: ModelSource,
    tokenizer: TextTokenizer,
    checks: CheckRecord[],
    onLoss: (loss: NonNullable<AdmittedForm["loss"]>) => void,
  ): Promise<Speed[]> {
    const { body } = this;
    return this.withEngine(spec, async (child) => {
      this.engine = child.loaded.engine;
      const { check, warnings } = await checkTokens(child, source, tokenizer, this.organs);
      checks.push(check);
      this.warnings.push(...warnings);
      const prompts: number[][] = [];
      for (const prompt of GATE_PROMPTS)
        prompts.push((await promptTokens(tokenizer, prompt)).slice(0, spec.context - 2));
      this.say(`${body.name} ${spec.form}: determinism, loss, anchors`);
      checks.push(await checkDeterminism(child, prompts));
      this.reference ??= await this.makeReference(tokenizer, spec.context);
      const loss = await lossOf(this.reference, async (ids, from) =>
        child.call({ what: "distributions", ids: [...ids], from }),
      );
      onLoss(loss);
      checks.push(
        limit("max_kl", loss.kl_mean, body.maxKl),
        limit("max_perplexity_ratio", loss.perplexity_ratio, body.maxPerplexityRatio),
      );
      checks.push(...(await checkAnchors(child, this.organs)));
      if (checks.some(({ passed }) => !passed)) return [{ threads: 1, prompt: 0, answer: 0 }];
      this.say(`${body.name} ${spec.form}: tokens a second on ${threadCounts().join(", ")} threads`);
      return child.call<Speed[]>({ what: "speed", threads: threadCounts() });
    });
  }

  private async makeReference(tokenizer: TextTokenizer, context: number): Promise<Reference> {
    const more = this.organs.flatMap(({ anchors }) => (anchors === undefined ? [] : [anchors]));
    const prompts: string[] = [];
    for (const path of more)
      prompts.push(...parseAnchors(await readFile(path, "utf8")).anchors.map(({ prompt }) => prompt));
    return referenceOf(await this.donorPath(), tokenizer, context, this.body.evalText, prompts, this.options.signal);
  }

  /** A child for one piece of work; it is gone when this returns. */
  private async withEngine<T>(spec: BodySpec, work: (child: ChildBody) => Promise<T>): Promise<T> {
    refuseStopped(this.options.signal);
    const child = new ChildBody(spec);
    const end = (): void => void child.stop();
    this.options.signal?.addEventListener("abort", end, { once: true });
    try {
      await child.load(async () => {});
      return await work(child);
    } catch (error) {
      refuseStopped(this.options.signal);
      throw error;
    } finally {
      this.options.signal?.removeEventListener("abort", end);
      await child.stop();
    }
  }

  /** All forms on the disk together stay within the farm's budget of SSD. */
  private async requireRoom(neededBytes: number): Promise<void> {
    const { state, farm, budget } = this.options;
    let stored = 0;
    for (const body of farm.bodies.keys()) {
      for (const admission of await state.accepted(body)) {
        // Of this body only what is served now and the new generation stay.
        const isKept = body !== this.body.name || admission.generation === (await state.currentGeneration(body));
        if (isKept) for (const { byte_length } of servable(admission)) stored += byte_length;
      }
    }
    if (stored + neededBytes <= budget.SSD) return;
    throw new PhysariumError(
      "USAGE_DISK_SPACE",
      `${this.body.name}: its forms take ${neededBytes} bytes beside ${stored} of the farm, the SSD budget is ` +
        `${budget.SSD}; take fewer forms, or raise budget.SSD`,
      { neededBytes, stored, budget: budget.SSD },
    );
  }

  private stop(): { signal?: AbortSignal } {
    return this.options.signal === undefined ? {} : { signal: this.options.signal };
  }
}

function limit(check: string, value: number, most: number | undefined): CheckRecord {
  const words = value.toPrecision(4);
  if (most === undefined) return { check, passed: true, found: `${words}, no limit` };
  // Written so that NaN breaks the rule.
  return { check, passed: value <= most, found: `${words}, allowed is ${most}` };
}

function wordsOf({ form, sha256, rejected, loss }: AdmittedForm) {
  return { form, sha256, rejected, kl: loss?.kl_mean ?? null };
}
