SELECT
  `t4`.`row_number`,
  COUNT(*) AS `k_any_w0`,
  SUM(IF(`t4`.`event_bucket` >= (
    `t4`.`bucket` - 24
  ), 1, 0)) AS `k_any_w24`,
  SUM(
    IF(
      (
        `t4`.`event_bucket` >= (
          `t4`.`bucket` - 24
        )
      ) AND `t4`.`kind` IN (1),
      1,
      0
    )
  ) AS `k_1_w24`,
  SUM(
    IF(
      (
        `t4`.`event_bucket` >= (
          `t4`.`bucket` - 168
        )
      )
      AND `t4`.`kind` IN (0, 2),
      1,
      0
    )
  ) AS `k_0_2_w168`
FROM (
  SELECT
    `t2`.`row_number`,
    `t2`.`entity`,
    `t2`.`bucket`,
    `t2`.`position_bound`,
    `t3`.`entity` AS `event_entity`,
    `t3`.`kind`,
    `t3`.`bucket` AS `event_bucket`,
    `t3`.`known_at`
  FROM `bounded` AS `t2`
  INNER JOIN `events` AS `t3`
    ON `t2`.`entity` = `t3`.`entity`
    AND `t3`.`known_at` >= `t2`.`position_bound`
    AND `t3`.`bucket` < `t2`.`bucket`
) AS `t4`
GROUP BY
  1
