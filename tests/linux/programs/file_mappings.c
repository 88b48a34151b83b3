/* Files in memory: what is read there, and where it is written. */
#include <sys/mman.h>

#include "check.h"

enum { PAGE = 4096, PROT_RW = PROT_READ | PROT_WRITE };

static void private_mappings(void) {
    char read_back[6] = "";
    write_file("text", "hello, file");
    int file = open("text", O_RDWR);
    char *area = CHECK_ADDRESS(mmap(NULL, PAGE, PROT_RW, MAP_PRIVATE, file, 0));
    require(area != MAP_FAILED, "mmap");
    CHECK_TEXT(area);
    CHECK_THAT(area[11] == 0 && area[PAGE - 1] == 0);
    memcpy(area, "HELLO", 5);
    CHECK(pread(file, read_back, 5, 0));
    CHECK_TEXT(read_back);
    CHECK(close(file));
    CHECK_TEXT(area);
    CHECK(munmap(area, PAGE));
}

static void shared_mappings(void) {
    int file = open("shared", O_RDWR | O_CREAT, 0600);
    CHECK(ftruncate(file, 3 * PAGE));
    CHECK(pwrite(file, "second page", 11, PAGE));
    char *area = CHECK_ADDRESS(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, file, PAGE));
    require(area != MAP_FAILED, "mmap");
    CHECK_TEXT(area);
    CHECK_THAT(area[2 * PAGE - 1] == 0);
    CHECK(munmap(area, 2 * PAGE));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_RW, MAP_SHARED, file, 0));
    CHECK(close(file));
}

static void errors(void) {
    int write_only = open("text", O_WRONLY), read_only = open("text", O_RDONLY), directory = open(".", O_RDONLY);
    int ends[2];
    require(pipe(ends) == 0, "pipe");
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, write_only, 0));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_RW, MAP_SHARED, read_only, 0));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_RW, MAP_PRIVATE, read_only, 0));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, read_only, 100));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, directory, 0));
    CHECK_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, ends[0], 0));
    CHECK_ADDRESS(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, read_only, 0));
}

static void zero_device(void) {
    int device = open("/dev/zero", O_RDWR);
    char *area = CHECK_ADDRESS(mmap(NULL, PAGE, PROT_RW, MAP_PRIVATE, device, 0));
    CHECK_THAT(area != MAP_FAILED && area[0] == 0 && area[PAGE - 1] == 0);
}

int main(void) {
    enter_directory("/tmp/file-mappings");
    RUN(private_mappings);
    RUN(shared_mappings);
    RUN(errors);
    RUN(zero_device);
    return 0;
}
