// The limit: one thread sends the same frames to N sockets in a bare loop, each call of send() with BURST messages.
// usage: limit PORT N CALLS BURST BYTES; then: wsload 127.0.0.1 PORT / N SECONDS. Says when it listens; then prints deliveries per CPU-second.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(int clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  int port = atoi(argv[1]), n = atoi(argv[2]), calls = atoi(argv[3]), burst = atoi(argv[4]), bytes = atoi(argv[5]), one = 1;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) { perror("limit"); return 1; }
  puts("listens");
  fflush(stdout);
  int *sockets = calloc(n, sizeof *sockets);
  char head[8192];
  const char *answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
  for (int i = 0; i < n; i++) {
    sockets[i] = accept(listener, 0, 0);
    setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (read(sockets[i], head, sizeof head) < 0 || write(sockets[i], answer, strlen(answer)) < 0) return 1;
  }
  sleep(1);
  int size = bytes + 4, length = size * burst;  // of 126 to 65,535 bytes
  char *frames = malloc(length);
  for (char *frame = frames; frame < frames + length; frame += size) {
    frame[0] = (char)0x81, frame[1] = 126, frame[2] = (char)(bytes >> 8), frame[3] = (char)bytes;
    memset(frame + 4, 'x', bytes);
  }
  double cpu = now(CLOCK_PROCESS_CPUTIME_ID);
  for (int call = 0; call < calls; call++)
    for (int i = 0; i < n; i++)
      while (send(sockets[i], frames, length, MSG_DONTWAIT) != length) usleep(100);
  cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  printf("%.0f deliveries per CPU-second\n", (double)n * calls * burst / cpu);
  fflush(stdout);
  sleep(1);
  return 0;
}
