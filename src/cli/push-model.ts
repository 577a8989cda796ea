import { open } from "node:fs/promises";
import { resolve } from "node:path";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { readHubEnvironment } from "../hub/environment.js";
import { HubClient } from "../hub/hub-client.js";
import { filesToPush, type PushFile } from "../hub/push/push-files.js";
import { type PushResult, PushSession } from "../hub/push/push-session.js";
import { shellQuote } from "../report/report-text.js";
import { type ByteProgress, createProgress, type ProgressStyle } from "./progress.js";
import { type CardSource, withCard } from "./push-card.js";
import type { PushFlags } from "./push-options.js";

/** A push that goes on beside the work: shards as they finish, the rest and the commit at its end. */
export class ModelPush {
  private queue: Promise<void> = Promise.resolve();
  private failure: { readonly error: unknown } | undefined;

  private constructor(
    private readonly session: PushSession,
    private readonly repository: string,
    private readonly place: string,
    private readonly progress: ByteProgress,
  ) {}

  /** Looks at the token and the repository before anything is made. `place` is the folder or file that will be pushed. */
  static async open(
    repository: string,
    place: string,
    flags: PushFlags,
    style: ProgressStyle,
    signal: AbortSignal,
  ): Promise<ModelPush> {
    const progress = createProgress(`pushing to ${repository}`, style);
    const client = new HubClient(readHubEnvironment(), { signal, onRetry: (line) => progress.note(line) });
    const session = await PushSession.open({
      ...{ repository, client, signal, isPrivate: flags.private ?? false, isPullRequest: flags.pr ?? false },
      // How much is to come is known at the end; a pace is enough.
      onProgress: (bytes, file) => progress.update(bytes, Math.max(bytes, 1), file),
      journalPath: `${resolve(place).replace(/[\\/]+$/, "")}.push.jsonl`,
    });
    return new ModelPush(session, repository, place, progress);
  }

  /**
   * A file that is whole; it is sent behind those given before. A failure is told by `finish`. The file is opened at
   * once: its folder may get another name while it goes up.
   */
  shard(path: string, localPath: string): void {
    const opened = open(localPath, "r");
    opened.catch(() => {});
    this.queue = this.queue
      .then(async () => {
        const handle = await opened;
        try {
          const { size } = await handle.stat();
          if (this.failure === undefined) await this.session.add({ path, localPath, handle, byteLength: size });
        } finally {
          await handle.close();
        }
      })
      .catch((error: unknown) => {
        this.failure ??= { error };
      });
  }

  /** What is left, one commit, and a look at what it holds. */
  async finish(summary: string, card: CardSource = {}): Promise<PushResult> {
    try {
      await this.queue;
      if (this.failure !== undefined) throw this.failure.error;
      for (const file of await withCard(this.place, await filesToPush(this.place), card)) {
        if (!this.session.has(file.path)) await this.session.add(file);
      }
      return await this.session.finish(summary);
    } catch (error) {
      throw this.unpushed(error);
    } finally {
      this.progress.stop();
    }
  }

  private unpushed(error: unknown): unknown {
    if (!isPhysariumError(error)) return error;
    const again = `physarium push ${shellQuote(this.place)} ${this.repository}`;
    const message =
      error.code === "STOPPED"
        ? `${this.place}: stopped; what went up is noted beside it, and \`${again}\` goes on`
        : `${this.place}: it was not pushed: ${error.message}; \`${again}\` goes on`;
    return new PhysariumError(error.code, message, error.details, error);
  }
}

/** What a push would send, asked of nobody. */
export async function wouldPush(place: string, card: CardSource = {}): Promise<readonly PushFile[]> {
  return withCard(place, await filesToPush(place), card);
}
