// attack: keeps N sockets busy with the same bytes until SIGTERM, each opened again when it ended.
// usage: attack PORT N FIRST_FILE [THEN_FILE REPEAT]
//   FIRST_FILE: sent on connecting; "########" in it becomes a number of the socket's own.
//   THEN_FILE:  sent REPEAT times after an answer of 101.
// environment: DRIP_MS (FIRST a byte at a time), THEN_MS (a pause after each THEN), DROP (close: 1 once FIRST is sent,
//   2 once it is answered), NOREAD (never read), REOPEN_MS (a pause before a socket is opened again), LEAVE (close
//   once a close frame was read).
// Prints "attacks" once it takes a signal, and at the end a line of JSON: sockets opened, those that were cut
// off without a word, answers by HTTP status, close frames by code, sockets with more than one answer, bytes sent.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { IDLE, CONNECTING, FIRST, ANSWER, THEN, DONE };
typedef struct {
    int fd, state, status, answers, code, number;
    size_t sent, repeat;
    uint64_t due; // when to write or to open again, in ms
    unsigned char head[16]; int have; uint64_t left; int opcode; // of the frame being read
} sock;

static volatile int stop;
static void on_term(int signal_) { stop = 1; }
static uint64_t now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000ull + t.tv_nsec / 1000000; }
static long option(const char *name) { const char *value = getenv(name); return value ? atol(value) : 0; }
static char *load(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb"); if (!file) { perror(path); exit(2); }
    fseek(file, 0, SEEK_END); *size = ftell(file); rewind(file);
    char *data = malloc(*size + 1); if (fread(data, 1, *size, file) != *size) exit(2);
    fclose(file); return data;
}

static int ep, port, numbers; static long drip, pause_ms, drop, noread, reopen, leave;
static char *first, *then; static size_t first_size, then_size, repeats, mark = -1;
static uint64_t opened, cut, doubles, bytes, statuses[1000], codes[5000];

static void watch(sock *s, int op, uint32_t events) { struct epoll_event e = {.events = events, .data.ptr = s}; epoll_ctl(ep, op, s->fd, &e); }
static void begin(sock *s) {
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0) { s->due = now_ms() + 100; return; }
    int on = 1; setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in source = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    char name[32]; snprintf(name, sizeof name, "127.0.2.%d", 1 + numbers % 8); inet_pton(AF_INET, name, &source.sin_addr);
    setsockopt(s->fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on); bind(s->fd, (void *)&source, sizeof source);
    if (noread) { int small = 4096; setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small); }
    if (drop) { struct linger hard = {1, 0}; setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard); }
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    if (connect(s->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) { close(s->fd); s->due = now_ms() + 100; return; }
    opened++; s->state = CONNECTING; s->status = s->answers = s->code = s->have = 0; s->left = s->sent = s->repeat = s->due = 0;
    s->number = numbers++; watch(s, EPOLL_CTL_ADD, EPOLLOUT);
}
static void end(sock *s) {
    close(s->fd);
    if (s->status) statuses[s->status]++;
    if (s->code) codes[s->code < 5000 ? s->code : 0]++;
    if (!s->status && drop != 1) cut++;
    if (s->answers > 1) doubles++;
    s->state = IDLE; s->due = now_ms() + reopen;
}
static int push(sock *s, const char *data, size_t size) { // 1: all is sent, 0: later, -1: gone
    while (s->sent < size) {
        ssize_t n = send(s->fd, data + s->sent, drip && s->state == FIRST ? 1 : size - s->sent, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        s->sent += n; bytes += n;
        if (drip && s->state == FIRST) { s->due = now_ms() + drip; return s->sent == size; }
    }
    return 1;
}
static void write_some(sock *s) {
    uint32_t reading = noread && s->state != ANSWER ? 0 : EPOLLIN | EPOLLRDHUP;
    if (s->state == CONNECTING) s->state = FIRST;
    if (s->state == FIRST) {
        char own[9]; const char *data = first; char *copy = 0;
        if (mark != (size_t)-1 && !s->sent) { copy = malloc(first_size); memcpy(copy, first, first_size); snprintf(own, 9, "%08d", s->number % 100000000); memcpy(copy + mark, own, 8); data = copy; }
        int done = push(s, data, first_size); free(copy);
        if (drop == 1 && done) { end(s); return; }
        if (done < 0) done = 1; // what it was told may still be read
        if (done) { s->state = ANSWER; s->sent = 0; s->due = 0; }
        watch(s, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP | (done || drip ? 0 : EPOLLOUT));
    } else if (s->state == THEN) {
        for (;;) {
            int done = push(s, then, then_size);
            if (done < 0) { s->state = DONE; break; } // what it was told may still be read
            if (!done) { watch(s, EPOLL_CTL_MOD, reading | EPOLLOUT); return; }
            s->sent = 0;
            if (++s->repeat == repeats) { s->state = DONE; break; }
            if (pause_ms) { s->due = now_ms() + pause_ms; break; }
        }
        watch(s, EPOLL_CTL_MOD, reading);
    }
}
static void frames(sock *s, unsigned char *data, ssize_t size) {
    for (ssize_t at = 0; at < size;) {
        if (s->left) {
            if (s->opcode == 8 && !s->code && size - at >= 2) s->code = data[at] << 8 | data[at + 1];
            uint64_t take = s->left < (uint64_t)(size - at) ? s->left : (uint64_t)(size - at); s->left -= take; at += take; continue;
        }
        s->head[s->have++] = data[at++];
        if (s->have < 2) continue;
        int length = s->head[1] & 127, want = 2 + (length == 126 ? 2 : length == 127 ? 8 : 0);
        if (s->have < want) continue;
        s->left = length;
        if (length > 125) { s->left = 0; for (int i = 2; i < want; i++) s->left = s->left << 8 | s->head[i]; }
        s->opcode = s->head[0] & 15; s->have = 0;
    }
}
static void read_some(sock *s) {
    static unsigned char buffer[1 << 16];
    for (;;) {
        ssize_t n = recv(s->fd, buffer, sizeof buffer - 1, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { end(s); return; }
        unsigned char *data = buffer; buffer[n] = 0;
        if (s->status != 101) for (char *p = (char *)buffer; (p = strstr(p, "HTTP/1.1 ")); p++) s->answers++;
        if (!s->status && n > 12) {
            s->status = atoi((char *)buffer + 9) % 1000;
            if (drop) { end(s); return; }
            if (s->status == 101) {
                unsigned char *rest = (unsigned char *)strstr((char *)buffer, "\r\n\r\n"); if (!rest) continue;
                n -= rest + 4 - buffer; data = rest + 4;
                if (then_size && s->state == ANSWER) { s->state = THEN; s->sent = 0; frames(s, data, n); write_some(s); return; }
            }
        }
        if (s->status == 101) frames(s, data, n);
        if (leave && s->code) { end(s); return; }
        if (noread) { watch(s, EPOLL_CTL_MOD, 0); return; }
    }
}
int main(int count, char **words) {
    if (count < 4) return 2;
    port = atoi(words[1]); int n = atoi(words[2]); first = load(words[3], &first_size);
    if (count > 5) { then = load(words[4], &then_size); repeats = atol(words[5]); }
    char *found = memmem(first, first_size, "########", 8); if (found) mark = found - first;
    drip = option("DRIP_MS"); pause_ms = option("THEN_MS"); drop = option("DROP"); noread = option("NOREAD"); reopen = option("REOPEN_MS"); leave = option("LEAVE");
    struct rlimit files; getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGTERM, on_term); signal(SIGINT, on_term);
    printf("attacks\n"); fflush(stdout);
    ep = epoll_create1(0); sock *all = calloc(n, sizeof *all); static struct epoll_event events[1024];
    uint64_t looked = 0;
    while (!stop) {
        int k = epoll_wait(ep, events, 1024, 5);
        for (int i = 0; i < k; i++) {
            sock *s = events[i].data.ptr; uint32_t what = events[i].events;
            if (what & EPOLLOUT) write_some(s);
            if (s->state > CONNECTING && what & (EPOLLIN | EPOLLRDHUP)) read_some(s);
            else if (s->state != IDLE && what & (EPOLLERR | EPOLLHUP)) end(s);
        }
        uint64_t now = now_ms(); if (now - looked < 5) continue;
        looked = now; int begun = 0;
        for (int i = 0; i < n; i++) {
            sock *s = all + i;
            if (s->state == IDLE && s->due <= now && begun++ < 256) begin(s);
            else if ((s->state == FIRST || s->state == THEN) && s->due && s->due <= now) { s->due = 0; write_some(s); }
        }
    }
    for (int i = 0; i < n; i++) { // what is still open was told something, too
        sock *s = all + i;
        if (s->state > CONNECTING && s->status) statuses[s->status]++;
        if (s->state > CONNECTING && s->code) codes[s->code < 5000 ? s->code : 0]++;
    }
    printf("{\"opened\":%lu,\"cut\":%lu,\"doubles\":%lu,\"bytes\":%lu,\"statuses\":{", opened, cut, doubles, bytes);
    const char *comma = "";
    for (int i = 0; i < 1000; i++) if (statuses[i]) { printf("%s\"%d\":%lu", comma, i, statuses[i]); comma = ","; }
    printf("},\"codes\":{"); comma = "";
    for (int i = 0; i < 5000; i++) if (codes[i]) { printf("%s\"%d\":%lu", comma, i, codes[i]); comma = ","; }
    printf("}}\n");
}
