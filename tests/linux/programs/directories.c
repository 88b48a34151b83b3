/* Names: directories, links and renaming, and what is known of a file. */
#include <dirent.h>
#include <limits.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <utime.h>

#include "check.h"

static const char *kind(mode_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "link";
    case S_IFCHR: return "character device";
    case S_IFIFO: return "pipe";
    case S_IFSOCK: return "socket";
    default: return "other";
    }
}

static void print_status(const char *path) {
    struct stat status;
    if (lstat(path, &status) != 0)
        printf("%s: %s\n", path, check_error(errno));
    else
        printf("%s: %s %04o\n", path, kind(status.st_mode), status.st_mode & 07777);
}

static int compare(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* The names in a directory, sorted, with their kinds. */
static void list(const char *path) {
    char *names[100];
    int count = 0;
    DIR *directory = opendir(path);
    printf("%s:", path);
    if (directory == NULL) {
        printf(" %s\n", check_error(errno));
        return;
    }
    for (struct dirent *entry; count < 100 && (entry = readdir(directory)) != NULL;)
        if (asprintf(&names[count], "%s/%s", entry->d_name, kind(DTTOIF(entry->d_type))) > 0)
            count++;
    closedir(directory);
    qsort(names, (size_t)count, sizeof names[0], compare);
    for (int i = 0; i < count; i++)
        printf(" %s", names[i]);
    printf("\n");
}

static void make_and_remove(void) {
    CHECK(mkdir("a", 0755));
    CHECK(mkdir("a", 0755));
    CHECK(mkdir("a/b", 0700));
    CHECK(mkdir("missing/b", 0755));
    write_file("a/file", "content");
    CHECK(mkdir("a/file", 0755));
    CHECK(mkdir("a/file/b", 0755));
    list("a");
    list(".");
    list("missing");
    list("a/file");
    CHECK(rmdir("a"));
    CHECK(rmdir("a/file"));
    CHECK(rmdir("missing"));
    CHECK(rmdir("a/."));
    CHECK(unlink("a"));
    CHECK(unlink("missing"));
    CHECK(unlink("a/file/x"));
    CHECK(unlink("a/file"));
    CHECK(rmdir("a/b"));
    list("a");
    CHECK(rmdir("a"));
    CHECK(mkdir("slash/", 0755));
    CHECK(rmdir("slash/"));
}

static void relative_to_a_directory(void) {
    CHECK(mkdir("base", 0755));
    int base = CHECK(open("base", O_RDONLY | O_DIRECTORY));
    struct stat status;
    CHECK(mkdirat(base, "inner", 0755));
    int file = CHECK(openat(base, "inner/file", O_CREAT | O_RDWR, 0644));
    CHECK(fstatat(base, "inner/file", &status, 0));
    CHECK(fstatat(file, "", &status, AT_EMPTY_PATH));
    CHECK(fstatat(file, "", &status, 0));
    CHECK(fstatat(file, "x", &status, 0));
    CHECK(fstatat(999, "x", &status, 0));
    CHECK(fstatat(999, "/", &status, 0));
    CHECK(fstatat(base, ".", &status, 1 << 30));
    CHECK(faccessat(base, "inner", F_OK, 0));
    CHECK(symlinkat("inner/file", base, "link"));
    CHECK(linkat(base, "link", base, "hard", 0));
    CHECK(renameat(base, "inner/file", AT_FDCWD, "moved"));
    CHECK(fchmodat(base, "inner", 0700, 0));
    CHECK(unlinkat(base, "inner", 0));
    CHECK(unlinkat(base, "inner", AT_REMOVEDIR));
    CHECK(unlinkat(base, "hard", 0));
    list("base");
    CHECK(fchdir(base));
    list(".");
    CHECK(unlink("link"));
    CHECK(chdir(".."));
    CHECK(rmdir("base"));
    CHECK(openat(base, "late", O_CREAT | O_RDWR, 0644));
    CHECK(fchdir(file));
    CHECK(close(file));
    CHECK(close(base));
    CHECK(unlink("moved"));
}

static void renaming(void) {
    struct stat before, after;
    write_file("one", "1");
    write_file("two", "2");
    CHECK(mkdir("empty", 0755));
    CHECK(mkdir("full", 0755));
    write_file("full/x", "x");
    CHECK(stat("one", &before));
    CHECK(rename("one", "three"));
    CHECK(stat("three", &after));
    CHECK_THAT(before.st_ino == after.st_ino);
    CHECK(rename("three", "two"));
    CHECK(stat("two", &after));
    CHECK_THAT(before.st_ino == after.st_ino);
    CHECK(rename("missing", "two"));
    CHECK(rename("two", "missing/two"));
    CHECK(rename("two", "empty"));
    CHECK(rename("empty", "two"));
    CHECK(rename("empty", "full"));
    CHECK(rename("full", "empty"));
    CHECK(rename("empty", "empty/inside"));
    CHECK(rename("empty/x", "x"));
    CHECK(rename("two", "two"));
    CHECK(rename("two", "two/x"));
    CHECK(renameat2(AT_FDCWD, "two", AT_FDCWD, "x", RENAME_NOREPLACE));
    CHECK(link("two", "also-two"));
    CHECK(rename("two", "also-two"));
    list(".");
    CHECK(unlink("two") + unlink("also-two") + unlink("x") + rmdir("empty"));
}

static void links(void) {
    struct stat first, second;
    char target[100] = "";
    write_file("file", "linked");
    CHECK(link("file", "same"));
    CHECK(stat("file", &first) + stat("same", &second));
    CHECK_THAT(first.st_ino == second.st_ino);
    CHECK(first.st_nlink);
    CHECK(unlink("file"));
    CHECK(stat("same", &second));
    CHECK(second.st_nlink);
    CHECK(link("missing", "x"));
    CHECK(link("same", "same"));
    CHECK(link(".", "directory"));
    CHECK(symlink("same", "soft"));
    CHECK(symlink("same", "soft"));
    CHECK(symlink("", "x"));
    CHECK(readlink("soft", target, sizeof target));
    CHECK_TEXT(target);
    CHECK(readlink("soft", target, 2));
    CHECK(readlink("soft", target, 0));
    CHECK(readlink("same", target, sizeof target));
    CHECK(readlink("missing", target, sizeof target));
    CHECK(stat("soft", &first));
    CHECK_THAT(first.st_ino == second.st_ino);
    CHECK(lstat("soft", &first));
    CHECK(first.st_size);
    CHECK(open("soft", O_RDONLY | O_NOFOLLOW));
    CHECK(symlink("nowhere", "dangling"));
    CHECK(open("dangling", O_RDONLY));
    CHECK(open("dangling", O_RDWR | O_CREAT | O_EXCL, 0644));
    CHECK(access("dangling", F_OK));
    int made = CHECK(open("dangling", O_RDWR | O_CREAT, 0644));
    CHECK(close(made));
    CHECK(access("nowhere", F_OK));
    CHECK(symlink("loop", "loop"));
    CHECK(open("loop", O_RDONLY));
    CHECK(stat("loop", &first));
    CHECK(mkdir("dir", 0755));
    CHECK(symlink("dir", "to-dir"));
    CHECK(rmdir("to-dir"));
    write_file("to-dir/inside", "x");
    CHECK(access("dir/inside", F_OK));
    CHECK(access("to-dir/../same", F_OK));
    list(".");
    CHECK(unlink("to-dir") + unlink("dir/inside") + rmdir("dir"));
    CHECK(unlink("same") + unlink("soft") + unlink("dangling") + unlink("nowhere") + unlink("loop"));
}

static void working_directory(void) {
    char path[PATH_MAX] = "";
    CHECK(mkdir("inner", 0755));
    CHECK(chdir("inner"));
    CHECK_TEXT(getcwd(path, sizeof path));
    CHECK_ADDRESS(getcwd(path, 5));
    CHECK_ADDRESS(getcwd(path, 0));
    CHECK(chdir("missing"));
    write_file("file", "");
    CHECK(chdir("file"));
    CHECK(chdir(".."));
    CHECK_TEXT(getcwd(path, sizeof path));
    CHECK(chdir("./inner/../inner/."));
    CHECK_TEXT(getcwd(path, sizeof path));
    CHECK(unlink("file"));
    CHECK(rmdir("../inner"));
    CHECK_ADDRESS(getcwd(path, sizeof path));
    CHECK(open("file", O_CREAT | O_RDWR, 0644));
    CHECK(chdir("/tmp/directories"));
    CHECK_TEXT(realpath("/tmp/../tmp//directories/.", path));
    CHECK_ADDRESS(realpath("missing", path));
    CHECK(fchdir(999));
}

static void modes_and_owners(void) {
    struct stat status;
    CHECK((long)umask(027));
    int file = CHECK(open("mode", O_CREAT | O_RDWR, 0666));
    print_status("mode");
    CHECK(mkdir("mode-directory", 0777));
    print_status("mode-directory");
    CHECK((long)umask(022));
    CHECK(chmod("mode", 04711));
    print_status("mode");
    CHECK(fchmod(file, 0400));
    print_status("mode");
    CHECK(chmod("missing", 0644));
    CHECK(fchmod(999, 0644));
    CHECK(access("mode", F_OK));
    CHECK(access("mode", R_OK | W_OK));
    CHECK(access("mode", X_OK));
    CHECK(access("missing", F_OK));
    CHECK(access("mode", 99));
    CHECK(chown("mode", 1000, 1001));
    CHECK(fstat(file, &status));
    CHECK(status.st_uid);
    CHECK(status.st_gid);
    CHECK(fchown(file, (uid_t)-1, 7));
    CHECK(lchown("mode", 5, (gid_t)-1));
    CHECK(stat("mode", &status));
    CHECK(status.st_uid);
    CHECK(status.st_gid);
    CHECK(fchownat(AT_FDCWD, "missing", 1, 1, 0));
    CHECK(close(file));
    CHECK(unlink("mode") + rmdir("mode-directory"));
}

static void what_is_known(void) {
    struct stat status;
    struct statx more;
    write_file("known", "12345");
    CHECK(stat("known", &status));
    CHECK(status.st_size);
    CHECK(status.st_nlink);
    CHECK(status.st_uid);
    CHECK_THAT(status.st_blksize >= 512 && status.st_ino != 0 && status.st_mtime > 1700000000);
    CHECK(statx(AT_FDCWD, "known", 0, STATX_BASIC_STATS, &more));
    CHECK_THAT((more.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    CHECK_THAT(more.stx_ino == status.st_ino && more.stx_mode == status.st_mode && more.stx_size == 5);
    CHECK_THAT(makedev(more.stx_dev_major, more.stx_dev_minor) == status.st_dev);
    CHECK(statx(AT_FDCWD, "missing", 0, STATX_BASIC_STATS, &more));
    CHECK(statx(AT_FDCWD, "known", 1 << 30, STATX_BASIC_STATS, &more));
    CHECK(stat("", &status));
    CHECK(stat("known/x", &status));
    CHECK(fstat(999, &status));
    print_status("/");
    print_status("/dev/null");

    struct timespec times[2] = {{1000000000, 500}, {1100000000, 700}};
    CHECK(utimensat(AT_FDCWD, "known", times, 0));
    CHECK(stat("known", &status));
    CHECK(status.st_atim.tv_sec);
    CHECK(status.st_mtim.tv_sec);
    CHECK(status.st_mtim.tv_nsec);
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_nsec = UTIME_NOW;
    CHECK(utimensat(AT_FDCWD, "known", times, 0));
    CHECK(stat("known", &status));
    CHECK(status.st_atim.tv_sec);
    CHECK_THAT(status.st_mtim.tv_sec > 1700000000);
    times[1].tv_nsec = 1000000000;
    CHECK(utimensat(AT_FDCWD, "known", times, 0));
    CHECK(utimensat(AT_FDCWD, "missing", NULL, 0));
    int file = open("known", O_RDWR);
    CHECK(futimens(file, NULL));
    CHECK(close(file));
    CHECK(utimes("known", NULL));
    CHECK(utime("known", NULL));
    CHECK(unlink("known"));
}

static void times_of_a_change(void) {
    struct stat before, after;
    struct timespec past[2] = {{1000000000, 0}, {1000000000, 0}};
    CHECK(mkdir("times", 0755));
    CHECK(utimensat(AT_FDCWD, "times", past, 0));
    CHECK(stat("times", &before));
    write_file("times/file", "x");
    CHECK(stat("times", &after));
    CHECK_THAT(after.st_mtime > before.st_mtime);
    CHECK(utimensat(AT_FDCWD, "times/file", past, 0));
    int file = open("times/file", O_RDWR);
    CHECK(write(file, "y", 1));
    CHECK(fstat(file, &after));
    CHECK_THAT(after.st_mtime > 1700000000);
    CHECK(close(file));
    CHECK(unlink("times/file") + rmdir("times"));
}

static void many_names(void) {
    enum { NAMES = 1000 };
    char name[20];
    unsigned found = 0, entries = 0;
    CHECK(mkdir("many", 0755) + chdir("many"));
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0644));
    }
    DIR *directory = opendir(".");
    require(directory != NULL, "opendir");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL; entries++)
        if (entry->d_name[0] != '.')
            found += (unsigned)atoi(entry->d_name);
    CHECK(entries);
    CHECK_THAT(found == NAMES * (NAMES - 1) / 2);
    rewinddir(directory);
    CHECK_THAT(readdir(directory) != NULL);
    /* Names that go while the directory is read. */
    int removed = 0;
    rewinddir(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        removed += unlink(entry->d_name) == 0;
    CHECK(removed);
    CHECK(closedir(directory));
    CHECK(chdir("..") + rmdir("many"));
}

int main(void) {
    enter_directory("/tmp/directories");
    RUN(make_and_remove);
    RUN(relative_to_a_directory);
    RUN(renaming);
    RUN(links);
    RUN(working_directory);
    RUN(modes_and_owners);
    RUN(what_is_known);
    RUN(times_of_a_change);
    RUN(many_names);
    return 0;
}
