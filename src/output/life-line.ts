import { randomBytes } from "node:crypto";
import { closeSync, constants, openSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";

/**
 * A socket in a folder that answers as long as the process that made it lives. The kernel answers for it, however busy
 * the process is, and across containers: a pid means nothing outside its namespace, a refused connection does.
 */
export interface LifeLine {
  /** The socket's name in the folder. */
  readonly name: string;
  close(): Promise<void>;
}

/** A socket's path may have about 100 bytes; by way of the open folder it always fits. */
const throughFolder = (descriptor: number, name: string) => `/proc/self/fd/${descriptor}/${name}`;

/** `undefined` where the system or the folder's file system cannot do it. */
export async function openLifeLine(folder: string): Promise<LifeLine | undefined> {
  if (process.platform !== "linux") return undefined;
  const name = `.physarium-${randomBytes(8).toString("hex")}.alive`;
  let descriptor: number | undefined;
  try {
    descriptor = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    const path = throughFolder(descriptor, name);
    const server = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, resolve);
    });
    server.unref();
    return {
      name,
      close: async () => {
        await new Promise((resolve) => server.close(resolve));
        rmSync(path, { force: true });
        closeSync(descriptor!);
      },
    };
  } catch {
    if (descriptor !== undefined) closeSync(descriptor);
    return undefined;
  }
}

/** Does the process live that made this life line? `undefined` where nobody can say. */
export async function isAnswered(folder: string, name: string): Promise<boolean | undefined> {
  if (process.platform !== "linux" || !/^\.physarium-[0-9a-f]{16}\.alive$/.test(name)) return undefined;
  let descriptor: number;
  try {
    descriptor = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch {
    return undefined;
  }
  const socket = connect(throughFolder(descriptor, name));
  try {
    return await new Promise<boolean | undefined>((resolve) => {
      socket.once("connect", () => resolve(true));
      socket.once("error", (error: NodeJS.ErrnoException) =>
        resolve(error.code === "ECONNREFUSED" ? false : undefined),
      );
    });
  } finally {
    socket.destroy();
    closeSync(descriptor);
  }
}
