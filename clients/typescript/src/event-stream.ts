// An event stream read into blocks (HTML section 9.2.6), and blocks into frames of notify.v1. No I/O.

export interface Block {
  event: string;
  data: string;
  id: string;
  retryMs: number;
}

const MAX_CHARS = 4 * 1024 * 1024;

/** Takes text as it comes, split anywhere, and gives the blocks that it completes. What is missing in one is empty,
 * or NaN. Throws when one has no end. */
export const createEventStreamParser = (): ((text: string) => Block[]) => {
  let rest = "";
  return (text) => {
    // A CR at the very end may be half of CR LF.
    const blocks = (rest + text).replace(/\r\n|\r(?!$)/g, "\n").split("\n\n");
    rest = blocks.pop()!;
    if (rest.length > MAX_CHARS) throw new Error("an event without end");
    return blocks.map(readBlock);
  };
};

const readBlock = (text: string): Block => {
  const fields: Record<string, string[]> = { event: [], data: [], id: [], retry: [] };
  for (const line of text.split("\n")) {
    const [, name, value] = /^([^:]*):? ?([^]*)$/.exec(line)!;
    fields[name!]?.push(value!);
  }
  const last = (name: string) => fields[name]!.at(-1) ?? "";
  return {
    event: last("event"),
    data: fields.data!.join("\n"),
    id: last("id"),
    retryMs: fields.retry!.length ? Number(last("retry")) : NaN,
  };
};

interface Position {
  epoch: string;
  seq: number;
}

/** A cursor, `<global epoch>.<seq>.<user epoch>.<seq>`, as frames have it. */
const positions = (cursor: string): { global: Position; user: Position } => {
  const [global = "", globalSeq, user = "", userSeq] = cursor.split(".");
  return { global: { epoch: global, seq: Number(globalSeq) }, user: { epoch: user, seq: Number(userSeq) } };
};

/** Turns blocks into the frames that notify.v1 would have brought. Keep one for each stream. Gives undefined for what
 * says nothing. */
export const createTranslator = (heartbeatMs: number): ((block: Block) => string | undefined) => {
  let cursor = "";
  return ({ event, data, id }) => {
    if (event == "control") return data;
    const before = cursor;
    cursor = id || cursor;
    if (data) {
      // An event is in exactly one stream: the one whose place changed.
      const { global, user } = positions(cursor);
      const was = positions(before);
      const isGlobal = global.epoch != was.global.epoch || global.seq != was.global.seq;
      const place = id
        ? isGlobal
          ? { stream: "global", ...global }
          : { stream: "user", ...user }
        : { stream: "global", epoch: "", seq: 0, snapshot: true };
      return data.slice(0, -1) + "," + JSON.stringify(place).slice(1);
    }
    if (!before && id)
      return JSON.stringify({ control: "welcome", ...positions(id), heartbeat_ms: heartbeatMs });
    return id ? JSON.stringify({ control: "heartbeat", ...positions(id) }) : undefined;
  };
};
