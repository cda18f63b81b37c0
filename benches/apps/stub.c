/* A worker that costs nothing: it speaks just enough of Node's cluster protocol to become ready, says so on the
 * named pipe BENCH_READY and then sleeps in read(). With it the bench sees what a worker costs the master alone.
 * Compiled with -DBEATS it sends heartbeats, as large as the shim's and as often as the master asks for; with BENCH_BEAT
 * it says once what a busy worker says with each beat.
 * It is given to rcluster as --node, so it must also answer `--version`. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int channel;

static void say(const char *line) {
  size_t left = strlen(line);
  while (left > 0) {
    ssize_t n = write(channel, line, left);
    if (n <= 0) _exit(2);
    line += n;
    left -= (size_t)n;
  }
}

#ifdef BEATS
static long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Beats until there is something to read. */
static void beat_until_readable(void) {
  static long every, due;
  if (!every) {
    const char *asked = getenv("RCLUSTER_SHIM"), *ms = asked ? strstr(asked, "\"beat_ms\":") : 0;
    every = ms ? atol(ms + 10) : 0;
    if (every <= 0) _exit(3);
    due = now_ms() + every;
  }
  for (;;) {
    struct pollfd fd = {.fd = channel, .events = POLLIN};
    long left = due - now_ms();
    if (poll(&fd, 1, left > 0 ? (int)left : 0) > 0) return;
    if (now_ms() < due) continue;
    due += every;
    say("{\"cmd\":\"NODE_RCLUSTER\",\"act\":\"beat\",\"requests\":123456,\"accepted\":2345,\"classes\":[0,123000,0,400,56],"
        "\"duration_us\":81234567,\"durations\":[100,900,5000,20000,40000,30000,15000,8000,2000,1000,500,300,200,100,50,20,10,5,2,1],"
        "\"connections\":16,\"heap_used\":5123456,\"heap_limit\":2197815296,"
        "\"delay_us\":812,\"delay_p50_us\":120,\"delay_p99_us\":1800,\"busy\":17}\n");
  }
}
#else
static void beat_until_readable(void) {}
#endif

/* Reads one line, which may carry a descriptor; it is kept open. */
static int line_of(char *line, size_t size) {
  static char buffer[65536];
  static size_t filled;
  for (;;) {
    char *end = memchr(buffer, '\n', filled);
    if (end) {
      size_t length = (size_t)(end - buffer) + 1;
      size_t kept = length < size ? length : size;
      memcpy(line, buffer, kept - 1);
      line[kept - 1] = 0;
      filled -= length;
      memmove(buffer, buffer + length, filled);
      return 1;
    }
    beat_until_readable();
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {buffer + filled, sizeof buffer - filled};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(channel, &message, 0);
    if (n <= 0) return 0;
    filled += (size_t)n;
  }
}

/* Every bucket of durations filled, as after a long life. */
static void beat(void) {
  static char text[4096];
  size_t at = (size_t)snprintf(text, sizeof text,
                               "{\"cmd\":\"NODE_RCLUSTER\",\"act\":\"beat\",\"requests\":123456789,\"accepted\":2345678,"
                               "\"classes\":[0,123450000,4000,2000,789],\"duration_us\":98765432100,\"connections\":321,"
                               "\"heap_used\":45678901,\"heap_limit\":2197815296,\"delay_us\":1234,\"delay_p50_us\":321,"
                               "\"delay_p99_us\":4321,\"busy\":567,\"durations\":[");
  for (int i = 0; i < 88; i++) at += (size_t)snprintf(text + at, sizeof text - at, "%s%d", i ? "," : "", 1000000 + i);
  snprintf(text + at, sizeof text - at, "]}\n");
  say(text);
}

int main(int argc, char **argv) {
  static char line[65536];
  char text[256];
  const char *fd = getenv("NODE_CHANNEL_FD"), *port = getenv("PORT"), *pipe = getenv("BENCH_READY");
  if (argc == 2 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-v"))) {
    puts("v24.0.0");
    return 0;
  }
  if (!fd || !port || !pipe) return 1;
  channel = atoi(fd);
  say("{\"cmd\":\"NODE_RCLUSTER\",\"act\":\"hello\",\"v\":1,\"node\":\"v24.0.0\"}\n");
  say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n");
  snprintf(text, sizeof text,
           "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"seq\":1,\"address\":\"127.0.0.1\",\"port\":%s,"
           "\"addressType\":4,\"fd\":-1,\"index\":0,\"data\":null,\"flags\":0,\"backlog\":511}\n", port);
  say(text);
  while (line_of(line, sizeof line)) {
    if (strstr(line, "NODE_HANDLE") && strstr(line, "net.Native")) {
      say("{\"cmd\":\"NODE_HANDLE_ACK\"}\n");
      snprintf(text, sizeof text,
               "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"seq\":2,\"address\":\"127.0.0.1\",\"port\":%s,\"addressType\":4}\n",
               port);
      say(text);
      snprintf(text, sizeof text, "ready %d\n", (int)getpid());
      int out = open(pipe, O_WRONLY | O_CLOEXEC);
      if (out < 0 || write(out, text, strlen(text)) < 0) return 2;
      close(out);
      if (getenv("BENCH_BEAT")) beat();
    } else if (strstr(line, "\"drain\"")) {
      say("{\"cmd\":\"NODE_RCLUSTER\",\"act\":\"drained\",\"cut\":0}\n");
      return 0;
    } else if (strstr(line, "\"disconnect\"")) {
      return 0;
    }
  }
  return 0;
}
