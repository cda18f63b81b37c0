/* Preloaded into a worker: process.setgid() makes the folder $JAIL its root, as native code of an app does by chroot(2). */
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

int setgid(gid_t gid) {
  const char *jail = getenv("JAIL");
  (void)gid;
  return jail && chroot(jail) == 0 ? chdir("/") : -1;
}
