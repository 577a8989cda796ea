import { printable } from "../errors.js";

/** A line on stderr whenever a further tenth of the tensors is begun; what is over within a second prints none. */
export function tensorProgress(command: string): (name: string, position: number, total: number) => void {
  const started = performance.now();
  let next = 0.1;
  return (name, position, total) => {
    const share = position / total;
    if (share < next || performance.now() - started < 1000) return;
    next = Math.floor(share * 10 + 1) / 10;
    process.stderr.write(
      `${command} ${Math.floor(share * 100)} %  tensor ${position + 1} of ${total}  ${printable(name)}\n`,
    );
  };
}
