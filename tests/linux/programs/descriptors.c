/* Descriptors: copies of them, their flags, locks, and how many there may be. */
#include <linux/close_range.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "check.h"

static void copies(void) {
    char byte;
    int file = CHECK(open("file", O_RDWR));
    int copy = CHECK(dup(file));
    CHECK(read(file, &byte, 1));
    CHECK(lseek(copy, 0, SEEK_CUR));
    CHECK(dup2(file, 20));
    CHECK(dup2(file, file));
    CHECK(dup2(copy, 20));
    CHECK(lseek(20, 0, SEEK_CUR));
    CHECK(dup3(file, 21, O_CLOEXEC));
    CHECK(fcntl(21, F_GETFD));
    CHECK(fcntl(20, F_GETFD));
    CHECK(dup3(file, file, 0));
    CHECK(dup3(file, 21, O_APPEND));
    CHECK(dup(999));
    CHECK(dup2(999, 5));
    CHECK(dup2(file, -1));
    CHECK(dup2(999, 999));
    CHECK(fcntl(file, F_DUPFD, 10));
    CHECK(fcntl(file, F_DUPFD_CLOEXEC, 10));
    CHECK(fcntl(11, F_GETFD));
    CHECK(fcntl(file, F_DUPFD, -1));
    CHECK(fcntl(999, F_DUPFD, 0));
    CHECK(close(file));
    CHECK(lseek(copy, 0, SEEK_CUR));
    CHECK(open("file", O_RDWR));
    CHECK(close(file));
    CHECK(close(copy));
    CHECK(close(10) + close(11) + close(20) + close(21));
    CHECK(close(20));
}

static void flags(void) {
    int file = CHECK(open("file", O_RDWR | O_APPEND | O_CLOEXEC));
    int copy = dup(file);
    CHECK(fcntl(file, F_GETFD));
    CHECK(fcntl(copy, F_GETFD));
    CHECK(fcntl(file, F_SETFD, 0));
    CHECK(fcntl(file, F_GETFD));
    CHECK(fcntl(file, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    CHECK(fcntl(file, F_SETFL, O_NONBLOCK));
    CHECK(fcntl(copy, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    CHECK(fcntl(file, F_SETFL, O_WRONLY));
    CHECK(fcntl(file, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    CHECK(fcntl(file, 9999));
    CHECK(fcntl(999, F_GETFL));
    CHECK(close(file) + close(copy));
}

static void requests(void) {
    int ends[2], on = 1, count = -1;
    char text[6] = "";
    require(pipe(ends) == 0, "pipe");
    CHECK(ioctl(ends[0], FIONBIO, &on));
    CHECK(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
    CHECK(read(ends[0], text, 5));
    CHECK(write(ends[1], "hello", 5));
    CHECK(ioctl(ends[0], FIONREAD, &count));
    CHECK(count);
    CHECK(ioctl(ends[0], FIOCLEX));
    CHECK(fcntl(ends[0], F_GETFD));
    CHECK(ioctl(ends[0], FIONCLEX));
    CHECK(fcntl(ends[0], F_GETFD));
    CHECK(ioctl(ends[0], TCGETS, text));
    CHECK(isatty(ends[0]));
    CHECK(ioctl(999, FIONREAD, &count));
    int file = open("file", O_RDONLY);
    CHECK(ioctl(file, FIONREAD, &count));
    CHECK(count);
    CHECK(ioctl(file, TIOCGWINSZ, text));
    CHECK(isatty(999));
    CHECK(close(ends[0]) + close(ends[1]) + close(file));
}

static void locks_of_the_process(void) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    int first = open("file", O_RDWR), second = open("file", O_RDWR), read_only = open("file", O_RDONLY);
    CHECK(fcntl(first, F_SETLK, &lock));
    CHECK(fcntl(second, F_SETLK, &lock));
    CHECK(fcntl(second, F_GETLK, &lock));
    CHECK_THAT(lock.l_type == F_UNLCK);
    lock.l_type = F_WRLCK;
    CHECK(fcntl(read_only, F_SETLK, &lock));
    lock.l_type = F_RDLCK;
    CHECK(fcntl(read_only, F_SETLKW, &lock));
    lock.l_type = 77;
    CHECK(fcntl(first, F_SETLK, &lock));
    lock.l_type = F_UNLCK;
    CHECK(fcntl(first, F_SETLK, &lock));
    CHECK(fcntl(999, F_SETLK, &lock));
    CHECK(close(first) + close(second) + close(read_only));
}

static void locks_of_an_opening(void) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    int first = open("file", O_RDWR), second = open("file", O_RDWR);
    CHECK(fcntl(first, F_OFD_SETLK, &lock));
    CHECK(fcntl(second, F_OFD_SETLK, &lock));
    lock.l_start = 10;
    CHECK(fcntl(second, F_OFD_SETLK, &lock));
    lock.l_start = 5;
    CHECK(fcntl(second, F_OFD_GETLK, &lock));
    CHECK_THAT(lock.l_type == F_WRLCK);
    CHECK(lock.l_start);
    CHECK(lock.l_len);
    CHECK(close(first));
    lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(second, F_OFD_SETLK, &lock));
    CHECK(close(second));
}

static void locks_of_a_whole_file(void) {
    int first = open("file", O_RDWR), second = open("file", O_RDWR), copy = dup(first);
    CHECK(flock(first, LOCK_EX));
    CHECK(flock(second, LOCK_EX | LOCK_NB));
    CHECK(flock(second, LOCK_SH | LOCK_NB));
    CHECK(flock(copy, LOCK_SH | LOCK_NB));
    CHECK(flock(second, LOCK_SH | LOCK_NB));
    CHECK(flock(second, LOCK_EX | LOCK_NB));
    CHECK(flock(first, LOCK_UN));
    CHECK(flock(second, LOCK_EX | LOCK_NB));
    CHECK(close(second));
    CHECK(flock(first, LOCK_EX | LOCK_NB));
    CHECK(flock(first, 0));
    CHECK(flock(999, LOCK_EX));
    CHECK(close(first) + close(copy));
}

static void ranges(void) {
    for (int i = 3; i <= 6; i++)
        CHECK(open("file", O_RDONLY));
    CHECK(close_range(4, 5, 0));
    CHECK(close(4));
    CHECK(fcntl(6, F_GETFD));
    CHECK(close_range(5, 4, 0));
    CHECK(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC));
    CHECK(fcntl(6, F_GETFD));
    CHECK(close_range(3, 4, 99));
    CHECK(close_range(3, ~0U, 0));
    CHECK(close(6));
}

static void beyond_the_limit(void) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit));
    CHECK(dup2(0, (int)limit.rlim_cur));
    CHECK(dup3(0, (int)limit.rlim_cur, O_CLOEXEC));
    CHECK(fcntl(0, F_DUPFD, (int)limit.rlim_cur));
    CHECK(dup2(0, (int)limit.rlim_cur - 1) - (int)limit.rlim_cur);
    CHECK(fcntl(0, F_DUPFD, (int)limit.rlim_cur - 1));
    CHECK(close((int)limit.rlim_cur - 1));
}

int main(void) {
    enter_directory("/tmp/descriptors");
    write_file("file", "0123456789");
    RUN(copies);
    RUN(flags);
    RUN(requests);
    RUN(locks_of_the_process);
    RUN(locks_of_an_opening);
    RUN(locks_of_a_whole_file);
    RUN(ranges);
    RUN(beyond_the_limit);
    return 0;
}
