import { ownNames, unwrapped } from "../checkpoint/adapter-names.js";
import type { Donor } from "../checkpoint/donor.js";
import { isSameTensor } from "../checkpoint/same-tensor.js";
import { isPhysariumError } from "../errors.js";
import { ModelConfig } from "../model/config.js";
import { inspectModel } from "./forward/inspect-model.js";

export interface LoadWarning {
  readonly code: string;
  readonly message: string;
}

/** Bytes of each tensor that are compared over the wire, where a whole one would be a download. */
export const WIRE_BYTES = 65_536;

/** What is to be said of a head that the file holds although the configuration ties it to the embedding. */
export interface TiedHead {
  readonly isCopy: boolean;
  readonly message: string;
}

/**
 * `undefined` where no head is tied, or none is there. Reads both tensors up to the first difference, and of each no
 * more than `mostBytes`: what agrees so far counts as a copy then.
 */
export async function tiedHead(donor: Donor, mostBytes?: number): Promise<TiedHead | undefined> {
  const names = await tiedNames(donor);
  if (names === undefined) return undefined;
  const { head, embedding } = names;
  const isCopy = await isSameTensor(donor, head, embedding, mostBytes);
  const message = isCopy
    ? `${head} is an equal copy of the embedding, to which config.json ties it`
    : `config.json ties the head to the embedding, and the file holds another ${head}: the file's is used`;
  return { isCopy, message };
}

/** Everything that is to be said of a model when it is loaded, whatever is done with it. */
export async function loadWarnings(donor: Donor, head: TiedHead | undefined): Promise<LoadWarning[]> {
  const tied = head?.isCopy === false ? [{ code: "WARN_TIED_HEAD", message: head.message }] : [];
  return [...donor.warnings, ...tied];
}

/** A donor that says so itself, for plans and those who work by them. `mostBytes`: see `tiedHead`. */
export async function withLoadWarnings(donor: Donor, mostBytes?: number): Promise<Donor> {
  return { ...donor, warnings: await loadWarnings(donor, await tiedHead(donor, mostBytes)) };
}

/** The two tensors, by the architecture where it is known, by their usual names elsewhere; as the file names them. */
async function tiedNames(donor: Donor): Promise<{ head: string; embedding: string } | undefined> {
  const names = donor.shards.flatMap(({ tensors }) => tensors.map(({ name }) => name));
  const own = ownNames(names);
  try {
    const { architecture, weights } = await inspectModel(donor);
    const head = weights.ownHead;
    if (!architecture.tiedEmbeddings || head === undefined) return undefined;
    return { head: own(head), embedding: own(weights.embedding) };
  } catch (error) {
    if (!isPhysariumError(error)) throw error;
  }
  const config = await ModelConfig.read(donor.source).catch(() => undefined);
  if (config?.decoder.raw("tie_word_embeddings") !== true) return undefined;
  const ending = (last: RegExp): string | undefined => names.find((name) => last.test(unwrapped(name)));
  const head = ending(/(?:^|\.)lm_head\.weight$/);
  const embedding = ending(/(?:^|\.)(?:embed_tokens|embeddings|word_embeddings|wte)\.weight$/);
  return head === undefined || embedding === undefined ? undefined : { head, embedding };
}
