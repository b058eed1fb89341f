/* A process that reads what it knows, whatever becomes of who serves it: by calls and as memory, from files that it opens now or has kept.
 *
 * `reader make FOLDER` writes the files; `reader read FOLDER SEED` reads them until it is ended. An error is no wrong byte: it is counted.
 * A wrong byte, or an end before the end, is said on standard error and is the end. Its standard output is one line that it writes
 * over and over: how often all was right, how often there was an error, and the milliseconds of the longest that it ever waited.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const size_t sizes[] = {1000, 40000, 700000, 5 << 20};
#define FILES (sizeof sizes / sizeof *sizes)

static unsigned long good, bad, longest;
static sigjmp_buf out;
static unsigned char room[1 << 18];

/* Byte `at` of file `n`: splitmix64 of the word that it lies in. */
static unsigned char right(size_t n, size_t at) {
    uint64_t z = (n << 40 | at / 8) + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) >> at % 8 * 8;
}

static unsigned long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000ul + at.tv_nsec / 1000000;
}

static void waited(unsigned long since) {
    if (now() - since > longest) longest = now() - since;
}

static void wrong(const char *what, size_t n, size_t at) {
    fprintf(stderr, "WRONG: %s of file %zu at %zu\n", what, n, at);
    _exit(1);
}

static void compare(const volatile unsigned char *bytes, size_t n, size_t from, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != right(n, from + i)) wrong("a byte", n, from + i);
}

static void no_page(int number) {
    (void)number;
    siglongjmp(out, 1);
}

static int opened(const char *folder, size_t n, int flags) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%zu", folder, n);
    return open(path, flags, 0644);
}

/* Some of it or all of it by calls; 0 if it went well. */
static int by_calls(int fd, size_t n, size_t from, size_t len) {
    while (len) {
        size_t part = len < sizeof room ? len : sizeof room;
        unsigned long since = now();
        ssize_t count = pread(fd, room, part, from);
        waited(since);
        if (count < 0) return -1;
        if (!count) wrong("the end", n, from);
        compare(room, n, from, count);
        from += count, len -= count;
    }
    return 0;
}

/* Some pages of a mapping; 0 if it went well. */
static int by_memory(const unsigned char *bytes, size_t n) {
    volatile unsigned long since = now();
    if (sigsetjmp(out, 1)) {
        waited(since);
        return -1;
    }
    for (int i = 0; i < 8; i++) {
        size_t from = random() % sizes[n], len = sizes[n] - from < 5000 ? sizes[n] - from : 5000;
        since = now();
        compare(bytes + from, n, from, len);
        waited(since);
    }
    return 0;
}

static const unsigned char *mapped(int fd, size_t n) {
    const unsigned char *bytes = mmap(0, sizes[n], PROT_READ, MAP_SHARED, fd, 0);
    return bytes == MAP_FAILED ? 0 : bytes;
}

static int once(const char *folder) {
    static int kept = -1;
    static size_t kept_n;
    static const unsigned char *kept_bytes;
    size_t n = random() % FILES;
    /* Now and then a file and its mapping outlive the round. */
    if (random() % 64 == 0 || kept < 0) {
        if (kept_bytes) munmap((void *)kept_bytes, sizes[kept_n]);
        if (kept >= 0) close(kept);
        kept_n = n, kept_bytes = 0;
        unsigned long since = now();
        kept = opened(folder, n, O_RDONLY);
        waited(since);
        if (kept >= 0) kept_bytes = mapped(kept, n);
        return kept < 0 ? -1 : 0;
    }
    if (random() % 4 == 0) {
        if (random() % 2) return by_calls(kept, kept_n, 0, sizes[kept_n]);
        return kept_bytes ? by_memory(kept_bytes, kept_n) : 0;
    }
    unsigned long since = now();
    int fd = opened(folder, n, O_RDONLY), answer;
    waited(since);
    if (fd < 0) return -1;
    /* Half of the time not from what the kernel keeps. */
    if (random() % 2) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (random() % 2) {
        size_t from = random() % sizes[n];
        answer = by_calls(fd, n, from, (sizes[n] - from) / (1 + random() % 4));
    } else {
        const unsigned char *bytes = mapped(fd, n);
        answer = bytes ? by_memory(bytes, n) : -1;
        if (bytes) munmap((void *)bytes, sizes[n]);
    }
    since = now();
    close(fd);
    waited(since);
    return answer;
}

int main(int count, char **args) {
    if (count == 3 && !strcmp(args[1], "make")) {
        for (size_t n = 0; n < FILES; n++) {
            int fd = opened(args[2], n, O_CREAT | O_EXCL | O_WRONLY);
            for (size_t at = 0; at < sizes[n];) {
                size_t len = 0;
                while (len < sizeof room && at + len < sizes[n]) room[len] = right(n, at + len), len++;
                if (write(fd, room, len) != (ssize_t)len) return 2;
                at += len;
            }
            if (close(fd)) return 2;
        }
        return 0;
    }
    if (count != 4 || strcmp(args[1], "read")) return 2;
    struct sigaction act = {.sa_handler = no_page};
    sigaction(SIGBUS, &act, 0);
    srandom(atoi(args[3]));
    for (;;) {
        if (once(args[2])) bad++, usleep(2000);
        else good++;
        char line[64];
        int len = snprintf(line, sizeof line, "%20lu %20lu %20lu\n", good, bad, longest);
        if (pwrite(1, line, len, 0) != len) return 2;
    }
}
