/* Fails, or photographs before, chosen calls on files below one folder.

   Preloaded into a program (LD_PRELOAD). FAULTS names a file of the layout of
   `struct control`, which tests/faults/injection.py maps as well: so one
   process can go through many cases. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum call { OPEN, CREATE, WRITE, SYNC, RENAME, MKDIR, LINK, REMOVE, CALLS };
enum action { COUNT, FAIL, FAIL_FROM, KILL, PHOTOGRAPH };
enum { ENTRIES = 1 << 14, NAME = 200 };

struct entry {
  int32_t call;
  char name[NAME];
};

struct control {
  int32_t armed;      /* nothing is counted unless 1 */
  int32_t calls;      /* which calls count, a bit each */
  int32_t action;
  int32_t at;         /* at the how manieth, from 1 */
  int32_t error;      /* errno of FAIL and FAIL_FROM */
  int32_t count;      /* calls that have counted */
  int32_t fired;      /* calls that failed */
  int32_t entries;    /* calls in `log` */
  char folder[1024];  /* files below it count, */
  char pattern[256];  /* whose path from there matches (fnmatch) */
  char photographs[1024];
  struct entry log[ENTRIES];
};

static struct control *control;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void map_control(void) {
  const char *name = getenv("FAULTS");
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
  int file = name ? real(name, O_RDWR) : -1;
  if (file < 0) return;
  void *there = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED,
                     file, 0);
  if (there != MAP_FAILED) control = there;
  close(file);
}

static void photograph(int number) {
  char target[1100], numbered[1100];
  snprintf(numbered, sizeof numbered, "%s/%d", control->photographs, number);
  snprintf(target, sizeof target, "%s", numbered);
  char *words[] = {"cp", "-a", control->folder, target, NULL};
  char *none[] = {NULL};
  pid_t child;
  int status;
  if (posix_spawn(&child, "/bin/cp", NULL, NULL, words, none) == 0)
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
}

/* Counts a call; returns whether it is to fail, with errno set. */
static int counts(enum call call, const char *path) {
  size_t length = strlen(control->folder);
  if (strncmp(path, control->folder, length) != 0) return 0;
  if (path[length] != '/' && path[length] != 0) return 0;
  const char *name = path[length] ? path + length + 1 : ".";
  if (!(control->calls >> call & 1)) return 0;
  if (fnmatch(control->pattern, name, 0) != 0) return 0;
  int number = ++control->count;
  if (control->action == COUNT && control->entries < ENTRIES) {
    struct entry *entry = &control->log[control->entries++];
    entry->call = call;
    snprintf(entry->name, NAME, "%s", name);
  }
  if (control->action == PHOTOGRAPH) photograph(number);
  if (number < control->at) return 0;
  if (control->action == KILL) kill(getpid(), SIGKILL);
  if (control->action == FAIL ? number == control->at
                              : control->action == FAIL_FROM) {
    control->fired++;
    errno = control->error;
    return 1;
  }
  return 0;
}

static void whole(char *out, int folder, const char *path) {
  char link[64];
  out[0] = 0;
  if (path && path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
    return;
  }
  if (folder == AT_FDCWD) return; /* tests give absolute paths */
  snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t length = readlink(link, out, PATH_MAX - 2);
  out[length < 0 ? 0 : length] = 0;
  if (length > 0 && path)
    snprintf(out + length, PATH_MAX - length, "/%s", path);
}

/* Every call below holds the lock while it runs, so that a photograph shows
   what a kill at that moment would leave. */
static int begin(enum call call, int folder, const char *path) {
  char full[PATH_MAX];
  int fails;
  pthread_once(&once, map_control);
  if (!control || !control->armed) return -1; /* not counted */
  whole(full, folder, path);
  pthread_mutex_lock(&lock);
  fails = counts(call, full);
  if (fails) pthread_mutex_unlock(&lock);
  return fails;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define DO(call, folder, path, type, statement)            \
  do {                                                     \
    int state = begin(call, folder, path);                 \
    if (state == 1) return -1;                             \
    type result = statement;                               \
    if (state == 0) {                                      \
      int kept = errno;                                    \
      pthread_mutex_unlock(&lock);                         \
      errno = kept;                                        \
    }                                                      \
    return result;                                         \
  } while (0)

static enum call opening(int flags) {
  int creates = O_CREAT | O_TMPFILE | O_TRUNC;
  return flags & creates & ~O_DIRECTORY ? CREATE : OPEN;
}

#define OPENS(name)                                            \
  int name(const char *path, int flags, ...) {                 \
    va_list rest;                                              \
    va_start(rest, flags);                                     \
    int mode = va_arg(rest, int);                              \
    va_end(rest);                                              \
    DO(opening(flags), AT_FDCWD, path, int,                    \
       REAL(name)(path, flags, mode));                         \
  }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                         \
  int name(int folder, const char *path, int flags, ...) {     \
    va_list rest;                                              \
    va_start(rest, flags);                                     \
    int mode = va_arg(rest, int);                              \
    va_end(rest);                                              \
    DO(opening(flags), folder, path, int,                      \
       REAL(name)(folder, path, flags, mode));                 \
  }
OPENS_AT(openat)
OPENS_AT(openat64)

int creat(const char *path, mode_t mode) {
  DO(CREATE, AT_FDCWD, path, int, REAL(creat)(path, mode));
}
int creat64(const char *path, mode_t mode) {
  DO(CREATE, AT_FDCWD, path, int, REAL(creat64)(path, mode));
}
ssize_t write(int file, const void *data, size_t size) {
  DO(WRITE, file, NULL, ssize_t, REAL(write)(file, data, size));
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
  DO(WRITE, file, NULL, ssize_t, REAL(pwrite)(file, data, size, at));
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
  DO(WRITE, file, NULL, ssize_t, REAL(pwrite64)(file, data, size, at));
}
ssize_t writev(int file, const struct iovec *parts, int count) {
  DO(WRITE, file, NULL, ssize_t, REAL(writev)(file, parts, count));
}
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
  DO(WRITE, file, NULL, ssize_t, REAL(pwritev)(file, parts, count, at));
}
ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t at) {
  DO(WRITE, file, NULL, ssize_t, REAL(pwritev64)(file, parts, count, at));
}
int ftruncate(int file, off_t size) {
  DO(WRITE, file, NULL, int, REAL(ftruncate)(file, size));
}
int ftruncate64(int file, off64_t size) {
  DO(WRITE, file, NULL, int, REAL(ftruncate64)(file, size));
}
int fsync(int file) { DO(SYNC, file, NULL, int, REAL(fsync)(file)); }
int fdatasync(int file) { DO(SYNC, file, NULL, int, REAL(fdatasync)(file)); }
int rename(const char *from, const char *to) {
  DO(RENAME, AT_FDCWD, to, int, REAL(rename)(from, to));
}
int renameat(int a, const char *from, int b, const char *to) {
  DO(RENAME, b, to, int, REAL(renameat)(a, from, b, to));
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  DO(RENAME, b, to, int, REAL(renameat2)(a, from, b, to, flags));
}
int mkdir(const char *path, mode_t mode) {
  DO(MKDIR, AT_FDCWD, path, int, REAL(mkdir)(path, mode));
}
int mkdirat(int folder, const char *path, mode_t mode) {
  DO(MKDIR, folder, path, int, REAL(mkdirat)(folder, path, mode));
}
int link(const char *from, const char *to) {
  DO(LINK, AT_FDCWD, to, int, REAL(link)(from, to));
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
  DO(LINK, b, to, int, REAL(linkat)(a, from, b, to, flags));
}
int unlink(const char *path) {
  DO(REMOVE, AT_FDCWD, path, int, REAL(unlink)(path));
}
int unlinkat(int folder, const char *path, int flags) {
  DO(REMOVE, folder, path, int, REAL(unlinkat)(folder, path, flags));
}
int rmdir(const char *path) {
  DO(REMOVE, AT_FDCWD, path, int, REAL(rmdir)(path));
}
