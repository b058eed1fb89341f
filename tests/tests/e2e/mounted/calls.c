/* Asks a file system for everything that would change it, and says what it answered: a line a call, "WHAT ON WHAT: ERRNO".
 *
 * It works in the current folder, whose entries are those of `readonly.rs`, and knows no right answer. Each call of one path is made on
 * each path below, each call of two on each pair; the classes of paths are those of pjdfstest's cases that a file system which is
 * read-only from the beginning can be asked (missing, no folder, loops, names and paths that are too long, bad addresses, there already).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BAD ((const char *)8)

static char name_255[256], name_256[257], path_4096[4097], deep_4095[4096];

static struct { const char *called, *path; } paths[] = {
    {"file", "file"}, {"tool", "tool"}, {"empty file", "empty"}, {"folder", "folder"}, {"empty folder", "bare"},
    {"file in folder", "folder/file"}, {"link to file", "to_file"}, {"link to folder", "to_folder"}, {"file over link", "to_folder/file"},
    {"dangling link", "dangling"}, {"below dangling link", "dangling/x"}, {"loop", "loop1"}, {"below loop", "loop1/x"},
    {"link to itself", "self"}, {"missing", "missing"}, {"missing in folder", "folder/missing"}, {"below missing", "missing/x"},
    {"below file", "file/x"}, {"file/", "file/"}, {"folder/", "folder/"}, {"missing/", "missing/"}, {"link to file/", "to_file/"},
    {"link to folder/", "to_folder/"}, {"dangling link/", "dangling/"}, {".", "."}, {"..", ".."}, {"folder/.", "folder/."},
    {"folder/..", "folder/.."}, {"missing/..", "missing/.."}, {"nothing", ""}, {"name of 255", name_255}, {"name of 256", name_256},
    {"path of 4095", deep_4095}, {"path of 4096", path_4096}, {"bad address", BAD},
};
#define PATHS (sizeof paths / sizeof *paths)

static const char *call_called, *on, *to;

/* Says what came of a call; a descriptor is closed. */
static void say(long answer, int is_descriptor) {
    int error = errno;
    printf("%s on %s%s%s: %s\n", call_called, on, to ? " to " : "", to ? to : "", answer < 0 ? strerrorname_np(error) : "OK");
    if (answer >= 0 && is_descriptor) close((int)answer);
}

#define ASK(call) (call_called = #call, errno = 0, say((long)(call), 0))
#define OPENED(call) (call_called = #call, errno = 0, say((long)(call), 1))

static int renameat_with(const char *from, const char *into, unsigned how) {
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, into, how);
}

static int socket_at(const char *p) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (p == BAD || strlen(p) >= sizeof at.sun_path || !*p) return 0;
    strcpy(at.sun_path, p);
    int made = socket(AF_UNIX, SOCK_STREAM, 0), answer = bind(made, (struct sockaddr *)&at, sizeof at), error = errno;
    close(made);
    errno = error;
    return answer;
}

static void ask_of_one(const char *p) {
    static const struct { const char *called; int flags; } opens[] = {
        {"open", O_RDONLY}, {"open WRONLY", O_WRONLY}, {"open RDWR", O_RDWR}, {"open bad access mode", O_ACCMODE},
        {"open TRUNC", O_RDONLY | O_TRUNC}, {"open APPEND", O_RDONLY | O_APPEND}, {"open DIRECT", O_RDONLY | O_DIRECT},
        {"open DIRECTORY", O_RDONLY | O_DIRECTORY}, {"open DIRECTORY RDWR", O_RDWR | O_DIRECTORY},
        {"open NOFOLLOW", O_RDONLY | O_NOFOLLOW}, {"open NOFOLLOW WRONLY", O_WRONLY | O_NOFOLLOW}, {"open PATH", O_PATH},
        {"open NOATIME", O_RDONLY | O_NOATIME}, {"open SYNC", O_RDONLY | O_SYNC}, {"open NONBLOCK", O_RDONLY | O_NONBLOCK},
        {"open TMPFILE", O_TMPFILE | O_RDWR}, {"open TMPFILE EXCL", O_TMPFILE | O_WRONLY | O_EXCL}, {"open EXCL", O_RDONLY | O_EXCL},
    };
    for (size_t i = 0; i < sizeof opens / sizeof *opens; i++) {
        call_called = opens[i].called;
        say(open(p, opens[i].flags, 0600), 1);
    }
    static const struct { const char *called; int flags; } more[] = {
        {"RDONLY", O_RDONLY}, {"WRONLY", O_WRONLY}, {"RDWR", O_RDWR}, {"NOFOLLOW", O_NOFOLLOW}, {"DIRECTORY", O_DIRECTORY},
    };
    for (int how = 0; how < 8; how++)
        for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
            char called[64];
            snprintf(called, sizeof called, "open CREAT%s%s%s %s", how & 1 ? " EXCL" : "", how & 2 ? " TRUNC" : "",
                     how & 4 ? " APPEND" : "", more[i].called);
            int flags = O_CREAT | (how & 1 ? O_EXCL : 0) | (how & 2 ? O_TRUNC : 0) | (how & 4 ? O_APPEND : 0) | more[i].flags;
            call_called = called;
            say(open(p, flags, 0644), 1);
        }
    OPENED(creat(p, 0644));
    ASK(mkdir(p, 0755));
    ASK(rmdir(p));
    ASK(unlink(p));
    ASK(unlinkat(AT_FDCWD, p, AT_REMOVEDIR));
    ASK(unlinkat(AT_FDCWD, p, 0x8000000));
    ASK(mkfifo(p, 0644));
    ASK(mknod(p, S_IFREG | 0644, 0));
    ASK(mknod(p, S_IFSOCK | 0644, 0));
    ASK(mknod(p, S_IFCHR | 0644, 0x103));
    ASK(mknod(p, S_IFBLK | 0644, 0x103));
    ASK(mknod(p, S_IFDIR | 0644, 0));
    ASK(socket_at(p));
    ASK(truncate(p, 0));
    ASK(truncate(p, 1 << 20));
    ASK(truncate(p, -1));
    ASK(chmod(p, 0600));
    ASK(chmod(p, 0444));
    ASK(chmod(p, 04755));
    ASK(fchmodat(AT_FDCWD, p, 0600, AT_SYMLINK_NOFOLLOW));
    ASK(chown(p, 0, 0));
    ASK(chown(p, 65534, 65534));
    ASK(chown(p, -1, -1));
    ASK(lchown(p, 65534, -1));
    struct timespec then[2] = {{1, 2}, {3, 4}};
    struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
    struct timespec omit[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    ASK(utimensat(AT_FDCWD, p, then, 0));
    ASK(utimensat(AT_FDCWD, p, then, AT_SYMLINK_NOFOLLOW));
    ASK(utimensat(AT_FDCWD, p, now, 0));
    ASK(utimensat(AT_FDCWD, p, omit, 0));
    ASK(utimensat(AT_FDCWD, p, 0, 0));
    ASK(setxattr(p, "user.a", "x", 1, 0));
    ASK(setxattr(p, "user.a", "x", 1, XATTR_CREATE));
    ASK(setxattr(p, "user.a", "x", 1, XATTR_REPLACE));
    ASK(setxattr(p, "user.provender.digest", "x", 1, 0));
    ASK(setxattr(p, "trusted.a", "x", 1, 0));
    ASK(setxattr(p, "security.a", "x", 1, 0));
    ASK(setxattr(p, "system.posix_acl_access", "x", 1, 0));
    ASK(setxattr(p, "nothing.a", "x", 1, 0));
    ASK(lsetxattr(p, "user.a", "x", 1, 0));
    ASK(removexattr(p, "user.a"));
    ASK(removexattr(p, "trusted.a"));
    ASK(removexattr(p, "security.a"));
    ASK(lremovexattr(p, "user.a"));
    ASK(getxattr(p, "user.a", 0, 0));
    ASK(access(p, F_OK));
    ASK(access(p, R_OK));
    ASK(access(p, W_OK));
    ASK(access(p, X_OK));
    ASK(access(p, R_OK | W_OK));
    ASK(faccessat(AT_FDCWD, p, W_OK, AT_EACCESS));
    ASK(faccessat(AT_FDCWD, p, W_OK, AT_EACCESS | AT_SYMLINK_NOFOLLOW));
    ASK(syscall(SYS_swapon, p, 0));
    ASK(syscall(SYS_acct, p));
    struct stat found;
    ASK(stat(p, &found));
    ASK(lstat(p, &found));
    char target[8];
    ASK(readlink(p, target, sizeof target));
    int here = open(".", O_RDONLY), answer = chdir(p), error = errno;
    call_called = "chdir";
    errno = error;
    say(answer, 0);
    if (fchdir(here)) exit(3);
    close(here);
}

static void ask_of_two(const char *p, const char *q) {
    ASK(rename(p, q));
    ASK(renameat_with(p, q, RENAME_NOREPLACE));
    ASK(renameat_with(p, q, RENAME_EXCHANGE));
    ASK(renameat_with(p, q, RENAME_WHITEOUT));
    ASK(renameat_with(p, q, RENAME_NOREPLACE | RENAME_EXCHANGE));
    ASK(renameat_with(p, q, 1u << 31));
    ASK(link(p, q));
    ASK(linkat(AT_FDCWD, p, AT_FDCWD, q, AT_SYMLINK_FOLLOW));
    ASK(symlink(p, q));
}

/* To and from a folder of another file system. */
static void ask_across(const char *p, int other) {
    ASK(renameat(AT_FDCWD, p, other, "other"));
    ASK(renameat(other, "other", AT_FDCWD, p));
    ASK(linkat(AT_FDCWD, p, other, "other", 0));
    ASK(linkat(other, "other", AT_FDCWD, p, 0));
}

static int mapped(int fd, int protection, int how) {
    void *at = mmap(0, 4096, protection, how, fd, 0);
    if (at == MAP_FAILED) return -1;
    int answer = msync(at, 4096, MS_SYNC | MS_INVALIDATE), error = errno;
    if (how == MAP_PRIVATE && protection & PROT_WRITE && lseek(fd, 0, SEEK_END) > 0) *(char *)at = 'x';
    munmap(at, 4096);
    errno = error;
    return answer;
}

static int made_writable(int fd) {
    void *at = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return -1;
    int answer = mprotect(at, 4096, PROT_READ | PROT_WRITE), error = errno;
    munmap(at, 4096);
    errno = error;
    return answer;
}

static int locked(int fd, int command, short kind) {
    struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_len = 1};
    return fcntl(fd, command, &lock);
}

static int given(int fd, size_t length) {
    struct file_clone_range range = {.src_fd = open("tool", O_RDONLY), .src_length = length};
    int answer = ioctl(fd, FICLONERANGE, &range), error = errno;
    close((int)range.src_fd);
    errno = error;
    return answer;
}

static int spliced(int fd) {
    int ends[2], answer = pipe(ends), error;
    if (write(ends[1], "x", 1) != 1) exit(3);
    answer = (int)splice(ends[0], 0, fd, 0, 1, 0), error = errno;
    close(ends[0]), close(ends[1]);
    errno = error;
    return answer;
}

static void ask_of_opened(const char *p, int flags) {
    int fd = open(p, flags), source = open("tool", O_RDONLY), number = 0, attribute = FS_NODUMP_FL | FS_IMMUTABLE_FL;
    if (fd < 0 || source < 0) {
        ASK(fd);
        return;
    }
    char room[512];
    loff_t none = 0;
    struct timespec then[2] = {{1, 2}, {3, 4}};
    struct fsxattr extended = {.fsx_xflags = FS_XFLAG_NODUMP};
    ASK(write(fd, "x", 1));
    ASK(pwrite(fd, "x", 1, 0));
    ASK(ftruncate(fd, 0));
    ASK(ftruncate(fd, -1));
    ASK(fchmod(fd, 0600));
    ASK(fchown(fd, 65534, 65534));
    ASK(futimens(fd, then));
    ASK(futimens(fd, 0));
    ASK(fsetxattr(fd, "user.a", "x", 1, 0));
    ASK(fsetxattr(fd, "trusted.a", "x", 1, 0));
    ASK(fremovexattr(fd, "user.a"));
    ASK(fallocate(fd, 0, 0, 4096));
    ASK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    ASK(fallocate(fd, 0, -1, 4096));
    ASK(copy_file_range(source, 0, fd, 0, 10, 0));
    ASK(sendfile(fd, source, &none, 10));
    ASK(spliced(fd));
    ASK(ioctl(fd, FICLONE, source));
    ASK(given(fd, 4096));
    ASK(ioctl(fd, FS_IOC_SETFLAGS, &attribute));
    ASK(ioctl(fd, FS_IOC_GETFLAGS, &number));
    ASK(ioctl(fd, FS_IOC_FSSETXATTR, &extended));
    ASK(ioctl(fd, FS_IOC_FSGETXATTR, &extended));
    ASK(ioctl(fd, FIBMAP, &number));
    ASK(ioctl(fd, _IO('p', 250)));
    ASK(mapped(fd, PROT_READ, MAP_SHARED));
    ASK(mapped(fd, PROT_READ | PROT_WRITE, MAP_SHARED));
    ASK(mapped(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE));
    ASK(mapped(fd, PROT_READ | PROT_EXEC, MAP_PRIVATE));
    ASK(made_writable(fd));
    ASK(fsync(fd));
    ASK(fdatasync(fd));
    ASK(syncfs(fd));
    ASK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    ASK(flock(fd, LOCK_SH | LOCK_NB));
    ASK(flock(fd, LOCK_EX | LOCK_NB));
    ASK(flock(fd, LOCK_UN));
    ASK(locked(fd, F_SETLK, F_RDLCK));
    ASK(locked(fd, F_SETLK, F_WRLCK));
    ASK(locked(fd, F_SETLK, F_UNLCK));
    ASK(locked(fd, F_GETLK, F_RDLCK));
    ASK(locked(fd, F_GETLK, F_WRLCK));
    ASK(locked(fd, F_OFD_SETLK, F_RDLCK));
    ASK(locked(fd, F_OFD_SETLK, F_WRLCK));
    ASK(fcntl(fd, F_SETLEASE, F_RDLCK));
    ASK(fcntl(fd, F_SETLEASE, F_WRLCK));
    ASK(fcntl(fd, F_SETLEASE, F_UNLCK));
    ASK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    ASK(fcntl(fd, F_SETFL, O_APPEND));
    ASK(fcntl(fd, F_SETFL, O_NONBLOCK));
    ASK(fcntl(fd, F_NOTIFY, DN_CREATE));
    ASK(syscall(SYS_getdents64, fd, room, sizeof room));
    ASK(lseek(fd, 0, SEEK_SET));
    ASK(read(fd, room, 1));
    ASK(pread(fd, room, 1, -1));
    ASK(lseek(fd, -1, SEEK_SET));
    ASK(lseek(fd, 1 << 30, SEEK_SET));
    ASK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
    ASK(readahead(fd, 0, 4096));
    ASK(openat(fd, "x", O_CREAT | O_WRONLY, 0600));
    ASK(mkdirat(fd, "x", 0700));
    ASK(unlinkat(fd, "file", 0));
    ASK(fchmodat(fd, "", 0600, 0));
    ASK(fchownat(fd, "", 0, 0, AT_EMPTY_PATH));
    ASK(linkat(fd, "", AT_FDCWD, "new", AT_EMPTY_PATH));
    ASK(faccessat(fd, "", W_OK, AT_EMPTY_PATH));
    ASK(unlinkat(fd, "", AT_REMOVEDIR));
    close(source);
    close(fd);
}

int main(int count, char **args) {
    memset(name_255, 'n', 255), memset(name_256, 'n', 256), memset(path_4096, 'p', 4096);
    for (int i = 0; i < 4094; i += 2) memcpy(deep_4095 + i, "./", 2);
    deep_4095[4094] = 'x';
    int other = count == 2 ? open(args[1], O_RDONLY | O_DIRECTORY) : -1;
    if (other < 0) return 2;
    for (size_t i = 0; i < PATHS; i++) {
        on = paths[i].called;
        ask_of_one(paths[i].path);
        ask_across(paths[i].path, other);
        for (size_t j = 0; j < PATHS; j++) {
            to = paths[j].called;
            ask_of_two(paths[i].path, paths[j].path);
        }
        to = 0;
    }
    static const struct { const char *called, *path; int flags; } opened[] = {
        {"opened file", "file", O_RDONLY}, {"opened folder", "folder", O_RDONLY}, {"opened empty file", "empty", O_RDONLY},
        {"path of file", "file", O_PATH}, {"path of folder", "folder", O_PATH}, {"path of link", "dangling", O_PATH | O_NOFOLLOW},
    };
    for (size_t i = 0; i < sizeof opened / sizeof *opened; i++) {
        on = opened[i].called;
        ask_of_opened(opened[i].path, opened[i].flags);
    }
    struct statvfs whole;
    if (statvfs(".", &whole)) return 3;
    printf("statvfs: read-only %d nosuid %d nodev %d noexec %d longest name %lu\n", !!(whole.f_flag & ST_RDONLY),
           !!(whole.f_flag & ST_NOSUID), !!(whole.f_flag & ST_NODEV), !!(whole.f_flag & ST_NOEXEC), whole.f_namemax);
    return 0;
}
