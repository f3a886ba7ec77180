/* Preloaded into the bridge: lets what it writes to files below DISK_BELOW fail, or wait, as the file DISK_CONTROL says:
   an errno's name, "wait", "slow" (each synchronisation takes SLOW_MS longer), or anything else for a disk that works. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SLOW_MS 100
#define LOOK_MS 5

static void pause_ms(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static int is_below(int fd)
{
    char link[64], path[PATH_MAX];
    const char *below = getenv("DISK_BELOW");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    return below && size > 0 && strncmp(path, below, strlen(below)) == 0;
}

static void read_control(char *word, size_t size)
{
    const char *path = getenv("DISK_CONTROL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t got = fd < 0 ? 0 : read(fd, word, size - 1);
    word[got < 0 ? 0 : got] = 0;
    if (fd >= 0)
        close(fd);
}

/* Whether the call fails; errno is set then. */
static int refused(int fd, int is_sync)
{
    int before = errno;
    if (!is_below(fd)) {
        errno = before;
        return 0;
    }
    for (;; pause_ms(LOOK_MS)) {
        char word[16];
        read_control(word, sizeof word);
        int code = !strcmp(word, "ENOSPC") ? ENOSPC : !strcmp(word, "EROFS") ? EROFS : !strcmp(word, "EIO") ? EIO : 0;
        if (code) {
            errno = code;
            return 1;
        }
        if (!strcmp(word, "wait"))
            continue;
        if (is_sync && !strcmp(word, "slow"))
            pause_ms(SLOW_MS);
        errno = before;
        return 0;
    }
}

#define WATCH(is_sync, type, name, parameters, arguments)                  \
    type name parameters                                                   \
    {                                                                      \
        static type(*real) parameters;                                     \
        if (!real)                                                         \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);            \
        return refused(fd, is_sync) ? -1 : real arguments;                 \
    }

WATCH(0, ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
WATCH(0, ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WATCH(0, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WATCH(0, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WATCH(0, int, ftruncate, (int fd, off_t size), (fd, size))
WATCH(0, int, ftruncate64, (int fd, off64_t size), (fd, size))
WATCH(1, int, fsync, (int fd), (fd))
WATCH(1, int, fdatasync, (int fd), (fd))
