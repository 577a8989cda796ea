import { PhysariumError } from "../errors.js";

/** What a place holds before it is known, and where it never will be. */
const UNKNOWN = 0n;
const FAILED = -1n;

/**
 * Where the jobs of one shard write: a coded band's length is known when it is coded, so each job's place follows from
 * the one before it. Threads hand it on among themselves, in memory they share: the one that has coded its job waits
 * for its place, says where the next one begins, and writes while others code.
 */
export class PackedPlaces {
  private readonly places: BigInt64Array;

  constructor(readonly shared: SharedArrayBuffer) {
    this.places = new BigInt64Array(shared);
  }

  /** For so many jobs, of which the first writes at `begin`. */
  static begin(jobs: number, begin: number): PackedPlaces {
    const places = new PackedPlaces(new SharedArrayBuffer(8 * (jobs + 1)));
    places.tell(0, begin);
    return places;
  }

  /** Where job `index` writes, or where the last one ended. Rejects where a job before it failed. */
  async of(index: number): Promise<number> {
    let place = Atomics.load(this.places, index);
    while (place === UNKNOWN) {
      await Atomics.waitAsync(this.places, index, UNKNOWN).value;
      place = Atomics.load(this.places, index);
    }
    if (place === FAILED) throw new PhysariumError("INTERNAL", "the bands before these ones were not coded");
    return Number(place);
  }

  /** Job `index` begins at `place`. */
  tell(index: number, place: number): void {
    this.set(index, BigInt(place));
  }

  /** Job `index` will not be told where it begins. */
  fail(index: number): void {
    if (Atomics.load(this.places, index) === UNKNOWN) this.set(index, FAILED);
  }

  private set(index: number, value: bigint): void {
    Atomics.store(this.places, index, value);
    Atomics.notify(this.places, index);
  }
}
