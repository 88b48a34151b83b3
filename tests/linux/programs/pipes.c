/* Pipes: what is in them, their two ends, and who waits for whom. */
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "events.h"

static char buffer[1 << 17];

static void content(void) {
    int ends[2], count = -1;
    struct iovec parts[2] = {{"abc", 3}, {"defg", 4}}, places[2] = {{buffer, 2}, {buffer + 10, 10}};
    CHECK(pipe(ends));
    CHECK(write(ends[1], "hello", 5));
    CHECK(write(ends[1], "world", 5));
    CHECK(ioctl(ends[0], FIONREAD, &count));
    CHECK(count);
    CHECK(read(ends[0], buffer, 7));
    CHECK(read(ends[0], buffer, 100));
    CHECK(writev(ends[1], parts, 2));
    CHECK(readv(ends[0], places, 2));
    CHECK_TEXT(buffer + 10);
    CHECK(write(ends[1], "", 0));
    CHECK(lseek(ends[0], 0, SEEK_SET));
    CHECK(pread(ends[0], buffer, 1, 0));
    CHECK(pwrite(ends[1], buffer, 1, 0));
    CHECK(read(ends[1], buffer, 1));
    CHECK(write(ends[0], buffer, 1));
    CHECK(fsync(ends[0]));
    CHECK(ftruncate(ends[1], 0));
    struct stat status;
    CHECK(fstat(ends[0], &status));
    CHECK_THAT(S_ISFIFO(status.st_mode));
    CHECK(close(ends[0]) + close(ends[1]));
}

static void ends_that_close(void) {
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC));
    CHECK(fcntl(ends[0], F_GETFD));
    CHECK(write(ends[1], "last", 4));
    int copy = dup(ends[1]);
    CHECK(close(ends[1]));
    CHECK(write(copy, "words", 5));
    CHECK(close(copy));
    CHECK(read(ends[0], buffer, 100));
    CHECK(read(ends[0], buffer, 100));
    print_events("writer gone", wait_for(ends[0], POLLIN));
    CHECK(close(ends[0]));
    CHECK(pipe(ends));
    CHECK(close(ends[0]));
    print_events("reader gone", wait_for(ends[1], POLLOUT));
    CHECK(write(ends[1], "x", 1));
    CHECK(close(ends[1]));
    CHECK(pipe2(ends, O_APPEND));
}

static void ends_that_do_not_wait(void) {
    int ends[2];
    long total = 0, length;
    CHECK(pipe2(ends, O_NONBLOCK));
    CHECK(read(ends[0], buffer, 1));
    while ((length = write(ends[1], buffer, 5000)) > 0)
        total += length;
    CHECK_THAT(errno == EAGAIN);
    CHECK_THAT(total >= 4096);
    print_events("full", wait_for(ends[0], POLLIN | POLLOUT));
    CHECK(write(ends[1], buffer, 4096));
    while (total > 0 && (length = read(ends[0], buffer, sizeof buffer)) > 0)
        total -= length;
    CHECK(total);
    CHECK(read(ends[0], buffer, 1));
    print_events("empty", wait_for(ends[1], POLLIN | POLLOUT));
    CHECK(write(ends[1], buffer, 4096));
    CHECK(fcntl(ends[0], F_SETFL, 0));
    CHECK(read(ends[0], buffer, 5000));
    CHECK(close(ends[0]) + close(ends[1]));
}

static int one_way[2];

static void *write_much(void *unused) {
    for (int i = 0; i < 8; i++)
        if (write(one_way[1], buffer, sizeof buffer) != sizeof buffer)
            break;
    close(one_way[1]);
    return unused;
}

static void ends_that_wait(void) {
    pthread_t thread;
    static char place[3000];
    long total = 0, length;
    CHECK(pipe(one_way));
    CHECK_CODE(pthread_create(&thread, NULL, write_much, NULL));
    while ((length = read(one_way[0], place, sizeof place)) > 0)
        total += length;
    CHECK(total);
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK(close(one_way[0]));
}

static void from_a_file(void) {
    int ends[2], file;
    off_t offset = 2;
    write_file("/tmp/pipe-source", "0123456789");
    file = open("/tmp/pipe-source", O_RDONLY);
    CHECK(pipe(ends));
    CHECK(sendfile(ends[1], file, &offset, 5));
    CHECK(offset);
    memset(buffer, 0, 10);
    CHECK(read(ends[0], buffer, 100));
    CHECK_TEXT(buffer);
    CHECK(close(ends[0]) + close(ends[1]) + close(file) + unlink("/tmp/pipe-source"));
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    RUN(content);
    RUN(ends_that_close);
    RUN(ends_that_do_not_wait);
    RUN(ends_that_wait);
    RUN(from_a_file);
    return 0;
}
