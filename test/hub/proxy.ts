import { createServer, type IncomingHttpHeaders, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";

/** A proxy that tunnels (CONNECT), in this process; what leads to `refused` hosts is turned away. */
export class TunnelProxy {
  /** Where tunnels were asked to, and with what headers. */
  readonly asked: { readonly target: string; readonly headers: IncomingHttpHeaders }[] = [];
  private server!: Server;

  static async start(refused: RegExp = /\.invalid:/): Promise<TunnelProxy> {
    const proxy = new TunnelProxy();
    proxy.server = createServer((_, response) => response.writeHead(405).end());
    proxy.server.on("connect", ({ url = "", headers }, client, head) => {
      proxy.asked.push({ target: url, headers });
      if (refused.test(url)) {
        client.end("HTTP/1.1 502 Bad Gateway\r\n\r\n");
        return;
      }
      const [host, port] = url.split(":");
      const upstream = connect(Number(port), host, () => {
        client.write("HTTP/1.1 200 Connection Established\r\n\r\n");
        upstream.write(head);
        upstream.pipe(client).pipe(upstream);
      });
      for (const socket of [upstream, client]) {
        socket.on("error", () => {
          upstream.destroy();
          client.destroy();
        });
      }
    });
    await new Promise<void>((ready) => proxy.server.listen(0, "127.0.0.1", ready));
    return proxy;
  }

  get address(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise<void>((closed) => this.server.close(() => closed()));
  }
}
