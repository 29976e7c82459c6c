// How far the page got in its two streams, and which events it knows (docs/protocol.md, "What a client does").

interface Position {
  epoch: string;
  seq: number;
}

interface Event extends Position {
  id?: string;
  stream: string;
  snapshot?: boolean;
}

export interface Place {
  /** Where to resume; undefined when nothing was told yet. */
  cursor(): string | undefined;
  /** Take the places that a welcome or a heartbeat tells. */
  told(frame: Record<string, Position | undefined>): void;
  /** Take the place of an event. False for one that is known. */
  takes(event: Event): boolean;
  /** What comes now in this stream may begin before what came. */
  resync(stream: string): void;
  /** For `createPlace` in another page. */
  save(): string;
}

const CURSOR = /^[0-9a-z]{1,32}-?\.\d{1,15}\.[0-9a-z]{1,32}-?\.\d{1,15}$/;
const MAX_PARTITIONS = 4096;

/** `saved`: of another place, or anything; what is no place counts as none. `first`: the cursor without one. */
export const createPlace = (saved?: string | null, first?: string): Place => {
  let told: Record<string, Position | undefined> = {};
  // The last event of each stream: while a connection takes another's place both may bring the same.
  const last: typeof told = {};
  // The highest offset of each partition, in the topic's generation: it survives the loss of an epoch.
  let offsets = new Map<string, number>();

  const cursor = () => {
    const { global, user } = told;
    const text = global && user && `${global.epoch}.${global.seq}.${user.epoch}.${user.seq}`;
    // The server would refuse any other for good.
    return text && CURSOR.test(text) ? text : first;
  };

  try {
    const [places, highest] = JSON.parse(saved!);
    offsets = new Map(highest);
    told = { ...places };
  } catch {
    // None, or of somebody else's making.
  }

  return {
    cursor,
    told(frame) {
      for (const stream of ["global", "user"]) told[stream] = frame[stream] ?? told[stream];
    },
    takes({ id = "", stream, epoch, seq, snapshot }) {
      const slash = id.lastIndexOf("/");
      const partition = id.slice(0, slash);
      const offset = Number(id.slice(slash + 1));
      const before = last[stream];
      const isNew = !(before?.epoch === epoch && seq <= before.seq) && !(id && offset <= offsets.get(partition)!);
      if (!snapshot) {
        told[stream] = { epoch, seq };
        if (isNew) {
          last[stream] = { epoch, seq };
          if (id) offsets.set(partition, offset);
          if (offsets.size > MAX_PARTITIONS) offsets.delete(offsets.keys().next().value!);
        }
      }
      return isNew;
    },
    resync(stream) {
      last[stream] = undefined;
    },
    save: () => JSON.stringify([told, [...offsets]]),
  };
};
