// Who wants to hear of what.

type Handler = (...what: never[]) => void;

export interface Emitter {
  /** The same handler of the same name is called once. */
  on(name: string, handler: Handler): () => void;
  emit(name: string, ...what: unknown[]): void;
  /** To who listens for errors; to the page's own reporting without. */
  error(error: unknown): void;
}

/** Names of an event type and of what is the client's own: neither can be taken for the other. */
export const event = (type: string) => "event " + type;
export const own = (name: string) => "own " + name;

const ERROR = own("error");

export const createEmitter = (): Emitter => {
  const handlers = new Map<string, Set<Handler>>();

  const emit = (name: string, ...what: unknown[]) => {
    for (const handler of [...(handlers.get(name) ?? [])])
      try {
        // Not one that was taken away by another just now.
        if (handlers.get(name)!.has(handler)) handler(...(what as never[]));
      } catch (thrown) {
        if (name == ERROR) report(thrown);
        else error(thrown);
      }
  };
  const report = (error: unknown) => (globalThis.reportError ?? console.error)(error);
  const error = (error: unknown) => {
    if (handlers.get(ERROR)?.size) emit(ERROR, error);
    else report(error);
  };

  return {
    on(name, handler) {
      const ours = handlers.get(name) ?? new Set();
      handlers.set(name, ours.add(handler));
      return () => void ours.delete(handler);
    },
    emit,
    error,
  };
};
