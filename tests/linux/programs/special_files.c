/* Files that are no files: devices, and what programs ask /proc for. */
#include <libgen.h>
#include <sys/auxv.h>

#include "check.h"

static char buffer[4096];

static void null(void) {
    int device = CHECK(open("/dev/null", O_RDWR));
    struct stat status;
    CHECK(write(device, "nothing", 7));
    CHECK(read(device, buffer, 10));
    CHECK_OK(lseek(device, 0, SEEK_END));
    CHECK(ftruncate(device, 0));
    CHECK(fstat(device, &status));
    CHECK_THAT(S_ISCHR(status.st_mode));
    CHECK(isatty(device));
    CHECK(close(device));
    CHECK(close(open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0644)));
    CHECK(open("/dev/null/x", O_RDONLY));
    CHECK(open("/dev/null", O_RDONLY | O_DIRECTORY));
}

static void zero(void) {
    int device = CHECK(open("/dev/zero", O_RDWR));
    memset(buffer, 'x', sizeof buffer);
    CHECK(read(device, buffer, 100));
    CHECK_THAT(buffer[0] == 0 && buffer[99] == 0 && buffer[100] == 'x');
    CHECK(write(device, buffer, 10));
    CHECK(close(device));
}

static void random_bytes(const char *path) {
    char first[16] = "", second[16] = "";
    int device = CHECK(open(path, O_RDONLY));
    CHECK(read(device, first, sizeof first));
    CHECK(read(device, second, sizeof second));
    CHECK_THAT(memcmp(first, second, sizeof first) != 0);
    CHECK(close(device));
}

static void devices_of_chance(void) {
    random_bytes("/dev/urandom");
    random_bytes("/dev/random");
}

/* Reads a whole file; tells its length. */
static ssize_t read_all(const char *path) {
    ssize_t length, total = 0;
    int file = open(path, O_RDONLY);
    memset(buffer, 0, sizeof buffer);
    if (file < 0)
        return -1;
    while ((length = read(file, buffer + total, sizeof buffer - 1 - (size_t)total)) > 0)
        total += length;
    close(file);
    return length < 0 ? -1 : total;
}

static void program(void) {
    char path[4096] = "";
    CHECK_THAT(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    CHECK_TEXT(basename(path));
    CHECK(access(path, X_OK));
    CHECK_THAT(strcmp((const char *)getauxval(AT_EXECFN), path) == 0);
    CHECK(close(open("/proc/self/exe", O_RDONLY)));
    CHECK_THAT(read_all("/proc/self/cmdline") > 0);
    CHECK_TEXT(basename(buffer));
    CHECK_THAT(read_all("/proc/self/comm") > 0);
    CHECK_TEXT(strtok(buffer, "\n"));
    CHECK_THAT(read_all("/proc/self/stat") > 0);
    CHECK_THAT(atoi(buffer) == getpid());
    CHECK_THAT(read_all("/proc/self/status") > 0);
    CHECK_THAT(strstr(buffer, "Threads:\t1\n") != NULL);
}

static void descriptors(void) {
    char path[4096] = "", name[32];
    write_file("/tmp/special", "seen");
    int file = CHECK(open("/tmp/special", O_RDONLY));
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    CHECK(readlink(name, path, sizeof path));
    CHECK_TEXT(path);
    CHECK(read_all(name));
    CHECK_TEXT(buffer);
    CHECK(close(file) + unlink("/tmp/special"));
    CHECK(readlink(name, path, sizeof path));
    CHECK(readlink("/proc/self/fd/999", path, sizeof path));
    CHECK(access("/proc/self/fd/1", F_OK));
}

static void maps(void) {
    FILE *file = fopen("/proc/self/maps", "r");
    unsigned long start, end, here = (unsigned long)&file;
    int holds_the_stack = 0;
    require(file != NULL, "/proc/self/maps");
    while (fgets(buffer, sizeof buffer, file) != NULL)
        if (sscanf(buffer, "%lx-%lx", &start, &end) == 2 && start <= here && here < end)
            holds_the_stack = 1;
    fclose(file);
    CHECK(holds_the_stack);
}

static void settings(void) {
    CHECK_THAT(read_all("/proc/sys/vm/overcommit_memory") > 0);
    CHECK_THAT(read_all("/proc/sys/net/core/somaxconn") > 0 && atoi(buffer) > 0);
    CHECK_THAT(read_all("/proc/meminfo") > 0 && strncmp(buffer, "MemTotal:", 9) == 0);
    CHECK_THAT(read_all("/sys/devices/system/cpu/online") > 0 && buffer[0] == '0');
    CHECK(open("/proc/self/nothing", O_RDONLY));
    CHECK(open("/proc/nothing", O_RDONLY));
    CHECK(open("/dev/nothing", O_RDONLY));
}

int main(void) {
    RUN(null);
    RUN(zero);
    RUN(devices_of_chance);
    RUN(program);
    RUN(descriptors);
    RUN(maps);
    RUN(settings);
    return 0;
}
