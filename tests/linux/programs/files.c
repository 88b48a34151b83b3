/* Files: opened in every way, read, written, cut, and looked at. */
#include <sys/sendfile.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#include "check.h"

static char buffer[64];

/* The whole of a file. */
static const char *content(const char *path) {
    memset(buffer, 0, sizeof buffer);
    int file = open(path, O_RDONLY);
    if (file < 0 || read(file, buffer, sizeof buffer - 1) < 0)
        return check_error(errno);
    close(file);
    return buffer;
}

static long size_of(int file) {
    struct stat status;
    return fstat(file, &status) == 0 ? status.st_size : -1;
}

static void flags_of_open(void) {
    int file = CHECK(open("new", O_CREAT | O_EXCL | O_RDWR, 0640));
    CHECK(open("new", O_CREAT | O_EXCL | O_RDWR, 0640));
    CHECK(write(file, "one two three", 13));
    CHECK(close(file));
    CHECK(open("missing", O_RDONLY));
    CHECK(open("missing/file", O_CREAT | O_RDWR, 0640));
    CHECK(open("new/file", O_CREAT | O_RDWR, 0640));
    CHECK(open("new", O_RDONLY | O_DIRECTORY));
    CHECK(open("new/", O_RDONLY));
    CHECK(open("", O_RDONLY));
    CHECK(open(".", O_RDWR));
    CHECK(open(".", O_WRONLY));
    CHECK(open("directory-to-be/", O_CREAT | O_RDWR, 0640));
    file = CHECK(open("new", O_WRONLY | O_APPEND));
    CHECK(lseek(file, 0, SEEK_SET));
    CHECK(write(file, "!", 1));
    CHECK(lseek(file, 0, SEEK_CUR));
    CHECK(read(file, buffer, 1));
    CHECK(close(file));
    CHECK_TEXT(content("new"));
    file = CHECK(open("new", O_RDONLY));
    CHECK(write(file, "x", 1));
    CHECK(close(file));
    CHECK(close(file));
    file = CHECK(open("new", O_RDWR | O_TRUNC));
    CHECK(size_of(file));
    CHECK(close(file));
    CHECK(creat("new", 0600));
    CHECK(close(file));
    char longest[300];
    memset(longest, 'n', sizeof longest);
    longest[299] = 0;
    CHECK(open(longest, O_CREAT | O_RDWR, 0640));
    longest[255] = 0;
    CHECK(open(longest, O_CREAT | O_RDWR, 0640));
    CHECK(close(file));
}

static void reading_and_writing(void) {
    struct iovec parts[3] = {{"ab", 2}, {"", 0}, {"cdef", 4}};
    char first[3] = "", second[10] = "";
    struct iovec places[2] = {{first, 2}, {second, 9}};
    int file = CHECK(open("parts", O_CREAT | O_RDWR, 0600));
    CHECK(writev(file, parts, 3));
    CHECK(pwrite(file, "XY", 2, 1));
    CHECK(lseek(file, 0, SEEK_CUR));
    CHECK(pread(file, second, 3, 4));
    CHECK_TEXT(second);
    CHECK(pread(file, second, 3, 100));
    CHECK(lseek(file, 0, SEEK_SET));
    CHECK(readv(file, places, 2));
    CHECK_TEXT(first);
    CHECK_TEXT(second);
    CHECK(read(file, second, 1));
    CHECK(pwritev(file, parts, 3, 10));
    CHECK(preadv(file, places, 2, 9));
    CHECK(first[0]);
    CHECK_TEXT(second);
    CHECK(pwritev2(file, parts, 3, 0, 0));
    CHECK(preadv2(file, places, 2, 0, 0));
    CHECK(read(file, buffer, 0));
    CHECK(write(file, "", 0));
    CHECK(pread(file, buffer, 1, -1));
    CHECK(pwrite(file, "x", 1, -1));
    CHECK(syscall(SYS_readv, file, places, -1));
    CHECK(syscall(SYS_writev, file, parts, 2000));
    CHECK(writev(file, parts, 0));
    CHECK(read(-1, buffer, 1));
    CHECK(write(999, "x", 1));
    CHECK(pread(-1, buffer, 1, 0));
    CHECK(readv(999, places, 2));
    CHECK(close(file));
}

static void positions(void) {
    int file = CHECK(open("positions", O_CREAT | O_RDWR, 0600));
    CHECK(write(file, "0123456789", 10));
    CHECK(lseek(file, -3, SEEK_END));
    CHECK(read(file, buffer, 10));
    CHECK(lseek(file, -1, SEEK_SET));
    CHECK(lseek(file, -100, SEEK_CUR));
    CHECK(lseek(file, 0, 99));
    CHECK(lseek(999, 0, SEEK_SET));
    CHECK(lseek(file, 5, SEEK_CUR));
    CHECK(read(file, buffer, 10));
    CHECK(write(file, "end", 3));
    CHECK(size_of(file));
    memset(buffer, 'x', sizeof buffer);
    CHECK(pread(file, buffer, 8, 10));
    CHECK_THAT(memcmp(buffer, "\0\0\0\0\0end", 8) == 0);
    CHECK(lseek(file, 100, SEEK_DATA));
    CHECK(lseek(file, 18, SEEK_HOLE));
    CHECK(lseek(file, 0, SEEK_DATA));
    CHECK(lseek(file, 0, SEEK_HOLE));
    CHECK(lseek(file, 1L << 40, SEEK_SET));
    CHECK(size_of(file));
    CHECK(close(file));
}

static void lengths(void) {
    int file = CHECK(open("lengths", O_CREAT | O_RDWR, 0600));
    CHECK(write(file, "0123456789", 10));
    CHECK(ftruncate(file, 4));
    CHECK(lseek(file, 0, SEEK_CUR));
    CHECK(ftruncate(file, 8));
    memset(buffer, 'x', sizeof buffer);
    CHECK(pread(file, buffer, 10, 0));
    CHECK_THAT(memcmp(buffer, "0123\0\0\0\0x", 9) == 0);
    CHECK(ftruncate(file, -1));
    CHECK(truncate("lengths", 2));
    CHECK(size_of(file));
    CHECK(truncate("missing", 2));
    CHECK(truncate(".", 2));
    CHECK(ftruncate(999, 2));
    int read_only = open("lengths", O_RDONLY);
    CHECK(ftruncate(read_only, 2));
    CHECK(posix_fallocate(file, 0, 10));
    CHECK(size_of(file));
    CHECK(fallocate(file, 0, 0, 0));
    CHECK(fallocate(read_only, 0, 0, 10));
    CHECK(fsync(file));
    CHECK(fdatasync(file));
    CHECK(fsync(999));
    CHECK(posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL));
    CHECK(posix_fadvise(999, 0, 0, POSIX_FADV_SEQUENTIAL));
    CHECK(syncfs(file));
    CHECK(syncfs(999));
    CHECK(sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE));
    CHECK(sync_file_range(file, 0, 0, 99));
    CHECK(sync_file_range(999, 0, 0, SYNC_FILE_RANGE_WRITE));
    sync();
    CHECK(close(read_only));
    CHECK(close(file));
}

static void files_without_a_name(void) {
    int file = CHECK(open("unnamed", O_CREAT | O_RDWR, 0600));
    struct stat status;
    CHECK(unlink("unnamed"));
    CHECK(open("unnamed", O_RDWR));
    CHECK(write(file, "still here", 10));
    CHECK(pread(file, buffer, 5, 0));
    CHECK(fstat(file, &status));
    CHECK(status.st_nlink);
    CHECK(status.st_size);
    int other = CHECK(open("unnamed", O_CREAT | O_EXCL | O_RDWR, 0600));
    CHECK(size_of(other));
    CHECK(close(file));
    CHECK(close(other));
    CHECK(unlink("unnamed"));
}

static void copies(void) {
    write_file("source", "0123456789");
    int source = open("source", O_RDONLY), target = open("target", O_CREAT | O_RDWR | O_TRUNC, 0600);
    off_t offset = 6, to = 2;
    CHECK(sendfile(target, source, &offset, 100));
    CHECK(offset);
    CHECK(lseek(source, 0, SEEK_CUR));
    CHECK(sendfile(target, source, NULL, 3));
    CHECK(lseek(source, 0, SEEK_CUR));
    CHECK_TEXT(content("target"));
    CHECK(sendfile(target, source, &offset, 1));
    CHECK(sendfile(999, source, NULL, 1));
    CHECK(sendfile(target, 999, NULL, 1));
    CHECK(sendfile(source, target, NULL, 1));
    CHECK(copy_file_range(source, NULL, target, &to, 2, 0));
    CHECK(to);
    CHECK_TEXT(content("target"));
    CHECK(copy_file_range(source, NULL, target, NULL, 2, 1));
    CHECK(close(source));
    CHECK(close(target));
}

static void two_openings(void) {
    int first = open("twice", O_CREAT | O_RDWR, 0600), second = open("twice", O_RDONLY);
    CHECK(write(first, "abc", 3));
    CHECK(read(second, buffer, 10));
    CHECK(read(second, buffer, 10));
    CHECK(write(first, "defg", 4));
    CHECK(read(second, buffer, 10));
    CHECK(ftruncate(first, 1));
    CHECK(read(second, buffer, 10));
    CHECK(write(first, "z", 1));
    CHECK(lseek(second, 0, SEEK_END));
    CHECK(close(first));
    CHECK(close(second));
}

static void large_file(void) {
    enum { CHUNK = 1 << 16, CHUNKS = 256 };
    static unsigned char chunk[CHUNK];
    unsigned long written = 0, sum = 0, found = 0;
    int file = CHECK(open("large", O_CREAT | O_RDWR, 0600));
    for (int i = 0; i < CHUNKS; i++) {
        for (int j = 0; j < CHUNK; j++)
            sum += chunk[j] = (unsigned char)(i * 31 + j * 7);
        written += (unsigned long)write(file, chunk, CHUNK);
    }
    CHECK(written);
    CHECK(lseek(file, 0, SEEK_SET));
    for (ssize_t length; (length = read(file, chunk, CHUNK)) > 0;)
        for (ssize_t j = 0; j < length; j++)
            found += chunk[j];
    CHECK_THAT(found == sum);
    CHECK(close(file));
    CHECK(unlink("large"));
}

static void file_system(void) {
    struct statvfs status;
    CHECK(statvfs(".", &status));
    CHECK_THAT(status.f_bsize > 0 && status.f_bfree <= status.f_blocks && status.f_namemax >= 255);
    CHECK(statvfs("missing", &status));
    CHECK(fstatvfs(999, &status));
}

int main(void) {
    enter_directory("/tmp/files");
    RUN(flags_of_open);
    RUN(reading_and_writing);
    RUN(positions);
    RUN(lengths);
    RUN(files_without_a_name);
    RUN(copies);
    RUN(two_openings);
    RUN(large_file);
    RUN(file_system);
    return 0;
}
