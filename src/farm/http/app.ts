import { readFileSync } from "node:fs";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { cors } from "hono/cors";
import { PhysariumError } from "../../errors.js";
import type { FarmService } from "../serve/farm-service.js";
import { readJournal } from "../state/journal.js";
import { complete } from "./completions.js";
import { eventStream } from "./event-stream.js";
import { type GuardOptions, guard } from "./guard.js";
import { httpError } from "./http-errors.js";
import { FarmMetrics } from "./metrics.js";
import { probe } from "./readiness.js";
import { bodiesView, farmView, modelsView, organsView } from "./views.js";

/** A request's body may have so many bytes: half a million words. */
const MAX_BODY_BYTES = 4 << 20;
const ASSETS = new URL("../../../assets/farm/", import.meta.url);
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
  "frame-ancestors 'none'";
/** Records of the history that are sent unless more are asked for. */
const HISTORY = 200;

/** The farm over HTTP. */
export function farmApp(service: FarmService, options: GuardOptions): Hono {
  const app = new Hono();
  const metrics = new FarmMetrics(service);
  if (options.corsOrigin !== undefined) app.use(cors({ origin: options.corsOrigin }));
  app.use(guard(options));
  app.use(bodyLimit({ maxSize: MAX_BODY_BYTES, onError: (c) => tooLarge(c) }));
  app.onError((error) => respond(httpError(error)));
  app.notFound((c) => {
    const message = `there is no ${c.req.method} ${c.req.path}`;
    return c.json({ error: { message, type: "invalid_request_error", param: null, code: "not_found" } }, 404);
  });

  app.get("/v1/models", (c) => c.json(modelsView(service)));
  app.get("/v1/models/:id", (c) => {
    const found = modelsView(service).data.find(({ id }) => id === c.req.param("id"));
    if (found === undefined)
      throw new PhysariumError("FARM_UNKNOWN_MODEL", `there is no organ and no body "${c.req.param("id")}"`);
    return c.json(found);
  });
  for (const kind of ["chat", "completion"] as const) {
    app.post(kind === "chat" ? "/v1/chat/completions" : "/v1/completions", async (c) => {
      const model = await modelOf(c);
      try {
        const response = await complete(service, c, kind);
        metrics.answered(model, response.status);
        return response;
      } catch (error) {
        const failure = httpError(error);
        metrics.answered(model, failure.status);
        return respond(failure);
      }
    });
  }
  const farm = farmRoutes(service);
  app.route("/farm", farm);
  app.route("/v1/farm", farm);
  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("/readyz", async (c) => {
    const found = await probe(service);
    return c.json(found, found.ready ? 200 : 503);
  });
  app.get("/metrics", async (c) => c.text(await metrics.text(), 200, { "content-type": metrics.contentType }));
  app.get("/", () => asset("index.html", "text/html; charset=utf-8"));
  app.get("/page.js", () => asset("page.js", "text/javascript; charset=utf-8"));
  app.get("/style.css", () => asset("style.css", "text/css; charset=utf-8"));
  return app;
}

function farmRoutes(service: FarmService): Hono {
  const farm = new Hono();
  farm.get("/", (c) => c.json(farmView(service)));
  farm.get("/organs", (c) => c.json({ organs: organsView(service) }));
  farm.get("/bodies", (c) => c.json({ bodies: bodiesView(service) }));
  farm.get("/events", (c) => eventStream(service, c.req.raw.signal));
  farm.get("/history", async (c) => {
    const limit = Math.min(10_000, Math.max(1, Number(c.req.query("limit")) || HISTORY));
    const body = c.req.query("body");
    const all = await readJournal(service.options.state.journal);
    const chosen = body === undefined ? all : all.filter((record) => record.body === body);
    return c.json({ history: chosen.slice(-limit) });
  });
  farm.post("/bodies/:body/load", async (c) => {
    const body = c.req.param("body");
    const refusal = service.unavailable(body);
    if (refusal !== undefined) throw refusal;
    await service.runtime.load(body);
    return c.json(bodiesView(service).find(({ name }) => name === body)!);
  });
  farm.post("/bodies/:body/unload", async (c) => {
    const body = c.req.param("body");
    if (!service.farm.bodies.has(body)) throw new PhysariumError("FARM_UNKNOWN_MODEL", `there is no body "${body}"`);
    await service.runtime.unload(body);
    return c.json(bodiesView(service).find(({ name }) => name === body)!);
  });
  for (const kind of ["organs", "bodies"]) {
    for (const verb of ["pin", "unpin"]) {
      farm.post(`/${kind}/:name/${verb}`, async (c) => {
        await service.pin(c.req.param("name"), verb === "pin");
        return c.json({ name: c.req.param("name"), pinned: verb === "pin" });
      });
    }
  }
  return farm;
}

async function modelOf(c: Context): Promise<string> {
  try {
    return String(((await c.req.json()) as { model?: unknown })?.model);
  } catch {
    return "";
  }
}

function respond({ status, headers, body }: ReturnType<typeof httpError>): Response {
  return new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json", ...headers } });
}

function tooLarge(c: Context): Response {
  const message = `a body may have ${MAX_BODY_BYTES} bytes`;
  return c.json({ error: { message, type: "invalid_request_error", param: null, code: "too_large" } }, 413);
}

function asset(name: string, type: string): Response {
  const headers = { "content-type": type, "content-security-policy": PAGE_POLICY, "cache-control": "no-cache" };
  return new Response(readFileSync(new URL(name, ASSETS)), { headers });
}
