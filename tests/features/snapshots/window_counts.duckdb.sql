SELECT
  "t8".*
  EXCLUDE ("is_asked")
FROM (
  SELECT
    *
  FROM (
    SELECT
      "t6"."entity",
      "t6"."bucket",
      "t6"."is_asked",
      COALESCE(
        SUM("t6"."k_any") OVER (
          PARTITION BY "t6"."entity"
          ORDER BY "t6"."bucket" ASC
          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 preceding
        ),
        0
      ) AS "k_any_w0",
      COALESCE(
        SUM("t6"."k_any") OVER (
          PARTITION BY "t6"."entity"
          ORDER BY "t6"."bucket" ASC
          RANGE BETWEEN 24 preceding AND 1 preceding
        ),
        0
      ) AS "k_any_w24",
      COALESCE(
        SUM("t6"."k_1") OVER (
          PARTITION BY "t6"."entity"
          ORDER BY "t6"."bucket" ASC
          RANGE BETWEEN 24 preceding AND 1 preceding
        ),
        0
      ) AS "k_1_w24",
      COALESCE(
        SUM("t6"."k_0_2") OVER (
          PARTITION BY "t6"."entity"
          ORDER BY "t6"."bucket" ASC
          RANGE BETWEEN 168 preceding AND 1 preceding
        ),
        0
      ) AS "k_0_2_w168"
    FROM (
      SELECT
        "t5"."entity",
        "t5"."bucket",
        SUM("t5"."k_any") AS "k_any",
        SUM("t5"."k_1") AS "k_1",
        SUM("t5"."k_0_2") AS "k_0_2",
        MAX("t5"."is_asked") AS "is_asked"
      FROM (
        SELECT
          *
        FROM (
          SELECT
            "t3"."entity",
            "t3"."bucket",
            "t3"."k_any",
            "t3"."k_1",
            "t3"."k_0_2",
            0 AS "is_asked"
          FROM (
            SELECT
              "t1"."entity",
              "t1"."bucket",
              COUNT(*) AS "k_any",
              SUM(CASE WHEN "t1"."kind" IN (1) THEN 1 ELSE 0 END) AS "k_1",
              SUM(CASE WHEN "t1"."kind" IN (0, 2) THEN 1 ELSE 0 END) AS "k_0_2"
            FROM "events" AS "t1"
            GROUP BY
              1,
              2
          ) AS "t3"
        ) AS "t4"
        UNION ALL
        SELECT
          *
        FROM (
          SELECT
            "t0"."entity",
            "t0"."bucket",
            0 AS "k_any",
            0 AS "k_1",
            0 AS "k_0_2",
            1 AS "is_asked"
          FROM "asked" AS "t0"
        ) AS "t2"
      ) AS "t5"
      GROUP BY
        1,
        2
    ) AS "t6"
  ) AS "t7"
  WHERE
    "t7"."is_asked" = 1
) AS "t8"
