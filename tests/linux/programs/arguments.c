/* What a program is started with. */
#include "check.h"

extern char **environ;

int main(int count, char **arguments) {
    CHECK(count);
    for (int i = 1; i < count; i++)
        CHECK_TEXT(arguments[i]);
    CHECK_THAT(arguments[count] == NULL);
    CHECK_THAT(strcmp(strrchr(arguments[0], '/') + 1, "arguments") == 0);
    CHECK_TEXT(getenv("GREETING"));
    CHECK_TEXT(getenv("EMPTY"));
    CHECK_THAT(getenv("MISSING") == NULL);
    CHECK_TEXT(program_invocation_short_name);
    char path[100] = "";
    CHECK_TEXT(getcwd(path, sizeof path));
    fprintf(stderr, "said on standard error\n");
    printf("without an end of line");
    return 0;
}
