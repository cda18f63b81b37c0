/* Preloaded into a master: calls that can block take 300 ms, as on a file system or a peer that does not answer.
 * Only while the folder $SLOW has a file "on"; each delay adds a byte to its file "delays".
 * Paths count below $SLOW alone. With $SLOW_PROC each walk of /proc takes as many milliseconds and adds a byte to "walks".
 * With $SLOW_REAP the look for the next child takes as many milliseconds once one was reaped: a preempted master.
 * Calls that the kernel answers at once (WNOHANG, O_NONBLOCK) stay as they are. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char slow[256], on[300], delays[300], walks[300];
static long walk, reap, reaped;

__attribute__((constructor)) static void start(void) {
  const char *folder = getenv("SLOW");
  if (strcmp(program_invocation_short_name, "rcluster") != 0) return; /* not in workers */
  if (!folder || strlen(folder) >= sizeof slow) return;
  strcpy(slow, folder);
  strcat(strcpy(on, slow), "/on");
  strcat(strcpy(delays, slow), "/delays");
  strcat(strcpy(walks, slow), "/walks");
  if (getenv("SLOW_REAP")) reap = atol(getenv("SLOW_REAP"));
  if (getenv("SLOW_PROC")) walk = atol(getenv("SLOW_PROC"));
}

static void delay_for(long ms, const char *count) {
  int before = errno;
  int fd = syscall(SYS_openat, AT_FDCWD, count, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd >= 0) {
    if (syscall(SYS_write, fd, ".", 1) != 1) _exit(99);
    syscall(SYS_close, fd);
  }
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  while (syscall(SYS_nanosleep, &time, &time) != 0) {}
  errno = before;
}

static void delay(void) {
  if (slow[0] && syscall(SYS_faccessat, AT_FDCWD, on, F_OK) == 0) delay_for(300, delays);
}

static void path(const char *path) {
  if (slow[0] && path && strncmp(path, slow, strlen(slow)) == 0) delay();
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define BY_PATH(type, name, params, file, ...) type name params { NEXT(name); path(file); return next(__VA_ARGS__); }

BY_PATH(int, stat, (const char *p, struct stat *s), p, p, s)
BY_PATH(int, stat64, (const char *p, struct stat64 *s), p, p, s)
BY_PATH(int, lstat, (const char *p, struct stat *s), p, p, s)
BY_PATH(int, lstat64, (const char *p, struct stat64 *s), p, p, s)
BY_PATH(int, statx, (int d, const char *p, int f, unsigned m, struct statx *s), p, d, p, f, m, s)
BY_PATH(char *, realpath, (const char *p, char *r), p, p, r)
BY_PATH(ssize_t, readlink, (const char *p, char *b, size_t n), p, p, b, n)
BY_PATH(int, access, (const char *p, int m), p, p, m)
BY_PATH(int, unlink, (const char *p), p, p)
BY_PATH(int, chdir, (const char *p), p, p)
BY_PATH(int, execve, (const char *p, char *const a[], char *const e[]), p, p, a, e)

DIR *opendir(const char *p) {
  NEXT(opendir);
  if (walk && strcmp(p, "/proc") == 0) delay_for(walk, walks); else path(p);
  return next(p);
}

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }
#define OPENS(name) int name(const char *p, int flags, ...) { \
  NEXT(name); va_list rest; va_start(rest, flags); mode_t mode = mode_of(flags, rest); va_end(rest); path(p); return next(p, flags, mode); }
OPENS(open)
OPENS(open64)
int openat(int d, const char *p, int flags, ...) {
  NEXT(openat); va_list rest; va_start(rest, flags); mode_t mode = mode_of(flags, rest); va_end(rest); path(p); return next(d, p, flags, mode);
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  NEXT(connect);
  if (!(fcntl(fd, F_GETFL) & O_NONBLOCK)) delay();
  return next(fd, address, length);
}
pid_t waitpid(pid_t pid, int *status, int options) {
  NEXT(waitpid);
  if (!(options & WNOHANG)) delay();
  pid_t ended = next(pid, status, options);
  reaped = ended > 0;
  return ended;
}
int waitid(idtype_t type, id_t id, siginfo_t *info, int options) {
  NEXT(waitid);
  if (!(options & WNOHANG)) delay();
  else if (reap && reaped && syscall(SYS_faccessat, AT_FDCWD, on, F_OK) == 0) delay_for(reap, delays);
  reaped = 0;
  return next(type, id, info, options);
}
/* The control: with $SLOW_FORK, a call that the loop does make. */
pid_t fork(void) {
  NEXT(fork);
  if (getenv("SLOW_FORK")) delay();
  return next();
}
