import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { systemClock } from "../runtime/clock.js";
import type { FarmService } from "../serve/farm-service.js";

/** The farm's figures as Prometheus reads them. One registry a farm: nothing global. */
export class FarmMetrics {
  private readonly registry = new Registry();
  private readonly requests = this.counter("requests_total", "Requests by organ and HTTP status", ["organ", "status"]);
  private readonly tokens = this.counter("tokens_total", "Tokens read and written", ["organ", "kind"]);
  private readonly verdicts = this.counter("verdicts_total", "Answers by what their verifier found", [
    "organ",
    "verdict",
  ]);
  private readonly loads = this.counter("loads_total", "Bodies loaded", ["body", "form", "tier"]);
  private readonly evictions = this.counter("evictions_total", "Bodies that gave their memory back", ["body"]);
  private readonly crashes = this.counter("crashes_total", "Children that ended by themselves", ["body"]);
  private readonly seconds = new Histogram({
    name: "physarium_farm_answer_seconds",
    help: "Seconds from request to answer",
    labelNames: ["organ"],
    buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120],
    registers: [this.registry],
  });
  private readonly loadSeconds = this.gauge("load_seconds", "Seconds of the latest load", ["body"]);
  private readonly memory = this.gauge("memory_bytes", "Memory of a body, as measured", ["body", "tier"]);
  private readonly budget = this.gauge("budget_bytes", "Memory the farm may take", ["tier"]);
  private readonly waiting = this.gauge("queue_length", "Requests that wait", ["body"]);
  private readonly inFlight = this.gauge("in_flight", "Answers being written", ["body"]);
  private readonly scores = this.gauge("score", "Food less poison less energy", ["organ"]);

  constructor(private readonly service: FarmService) {
    service.listen((happening) => {
      if (happening.event === "loaded") {
        this.loads.inc({ body: happening.body, form: happening.form, tier: happening.tier });
        this.loadSeconds.set({ body: happening.body }, happening.seconds);
      } else if (happening.event === "evicted") this.evictions.inc({ body: happening.body });
      else if (happening.event === "crashed") this.crashes.inc({ body: happening.body });
      else if (happening.event === "answer") {
        const answer = happening as unknown as {
          organ: string;
          prompt_tokens: number;
          completion_tokens: number;
          verdict: boolean | null;
          seconds: number;
          waited_seconds: number;
        };
        const { organ, verdict } = answer;
        this.tokens.inc({ organ, kind: "prompt" }, answer.prompt_tokens);
        this.tokens.inc({ organ, kind: "completion" }, answer.completion_tokens);
        this.verdicts.inc({ organ, verdict: verdict === null ? "none" : verdict ? "passed" : "failed" });
        this.seconds.observe({ organ }, answer.seconds + answer.waited_seconds);
      }
    });
  }

  /** Names of models come from clients: only those that exist are labels. */
  answered(model: string, status: number): void {
    const isKnown = this.service.organs.has(model) || this.service.farm.bodies.has(model);
    this.requests.inc({ organ: isKnown ? model : "unknown", status: String(status) });
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  text(): Promise<string> {
    const { runtime, organs } = this.service;
    this.budget.set({ tier: "VRAM" }, runtime.budget.VRAM);
    this.budget.set({ tier: "RAM" }, runtime.budget.RAM);
    for (const [body, home] of runtime.homes) {
      this.memory.set({ body, tier: "VRAM" }, home.holds.VRAM);
      this.memory.set({ body, tier: "RAM" }, home.holds.RAM);
      this.waiting.set({ body }, home.queue.length);
      this.inFlight.set({ body }, home.inFlight.size);
    }
    for (const [organ, { score }] of organs) this.scores.set({ organ }, score.value(systemClock.now()));
    return this.registry.metrics();
  }

  private counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name: `physarium_farm_${name}`, help, labelNames, registers: [this.registry] });
  }

  private gauge(name: string, help: string, labelNames: string[]): Gauge {
    return new Gauge({ name: `physarium_farm_${name}`, help, labelNames, registers: [this.registry] });
  }
}
