import type { Command } from "commander";
import { PhysariumError, printable } from "../errors.js";
import { looksLikeRepository } from "../hub/address.js";
import type { PushResult } from "../hub/push/push-session.js";
import type { ProgressStyle } from "./progress.js";
import type { ModelPush } from "./push-model.js";

/** What commands that write a model share: send it to the Hub when it is whole. */
export interface PushFlags {
  readonly push?: string;
  readonly private?: boolean;
  readonly pr?: boolean;
}

export function addPushOptions(command: Command): Command {
  return command
    .option("--push <org/name>", "afterwards send the output to this repository on the Hub, with a model card")
    .option("--private", "--push: a repository that is made is private")
    .option("--pr", "--push: as a pull request");
}

/** Refuse what cannot be a repository, and flags without one. Throws `USAGE_PUSH`. */
export function checkPush({ push, private: isPrivate, pr }: PushFlags): string | undefined {
  if (push === undefined) {
    if (isPrivate || pr) throw new PhysariumError("USAGE_PUSH", "--private and --pr are for --push org/name");
    return undefined;
  }
  const repository = push.replace(/^hf:\/\//, "");
  if (looksLikeRepository(repository)) return repository;
  throw new PhysariumError("USAGE_PUSH", `--push is "${push}", expected a repository as org/name`);
}

/** The push that was asked for, its token and repository looked at before anything is made; else `undefined`. */
export async function beginPush(
  flags: PushFlags,
  place: string,
  style: ProgressStyle,
  signal: AbortSignal,
): Promise<ModelPush | undefined> {
  const repository = checkPush(flags);
  if (repository === undefined) return undefined;
  const { ModelPush } = await import("./push-model.js");
  return ModelPush.open(repository, place, flags, style, signal);
}

/** What a push did, for a result in JSON. */
export function pushJson(result: PushResult | undefined) {
  if (result === undefined) return {};
  const { commit, url, files, bytesSent } = result;
  return { push: { commit, url, files, bytes_sent: bytesSent } };
}

/** The same for people. */
export function pushedLine({ commit, url, files, bytesSent }: PushResult): string {
  const sent = bytesSent.toLocaleString("en-US");
  return `pushed ${files} files (${sent} bytes went up), commit ${commit}, read back and compared: ${printable(url)}\n`;
}
